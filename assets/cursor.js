"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [toggle, slider, clock, speed, view] = ["toggle", "time", "clock", "speed", "view"].map((id) => document.getElementById(id));
const charts = [...document.querySelectorAll(".chart")].map((chart) => ({
  plot: chart.querySelector(".plot"), cursor: chart.querySelector(".cursor"), values: data.values[chart.dataset.curve],
  views: [...chart.querySelectorAll("[data-view]")], outputs: [...chart.querySelectorAll("output")] }));
let now = 0, playing = false, before = 0, point = -1;

function film(video) {
  const length = video.dataset.frames / video.dataset.fps;
  const half = 0.5 / video.dataset.fps; // the middle of a frame: its edge belongs to either of two
  let wanted = null;
  function seek(time) {
    if (video.seeking) wanted = time;
    else video.currentTime = time;
  }
  video.addEventListener("seeked", () => {
    if (wanted !== null) video.currentTime = wanted;
    wanted = null;
  });
  return (time) => {
    const at = Math.min(time, length - half);
    if (!playing || time >= length) {
      video.pause();
      const frame = Math.floor(at * video.dataset.fps + 1e-6) / video.dataset.fps + half;
      if (Math.abs(video.currentTime - frame) > half / 2) seek(frame);
      return;
    }
    video.playbackRate = Number(speed.value);
    if (Math.abs(video.currentTime - at) > 0.25 * video.playbackRate) seek(at);
    if (video.paused) video.play().catch(() => {}); // interrupted by a pause, which is no error
  };
}
function sheet(canvas) {
  const pen = canvas.getContext("2d"), picture = new Image();
  const {width, height} = canvas, {fps, frames, columns} = canvas.dataset;
  picture.addEventListener("load", () => show());
  picture.src = canvas.dataset.sheet;
  return (time) => {
    if (!picture.complete) return;
    const frame = Math.min(frames - 1, Math.floor(time * fps + 1e-6));
    pen.drawImage(picture, (frame % columns) * width, Math.floor(frame / columns) * height, width, height, 0, 0, width, height);
  };
}
const screens = [...document.querySelectorAll("video, canvas")].map((screen) =>
  screen.tagName === "VIDEO" ? film(screen) : sheet(screen));
const frames = [...document.querySelectorAll("video, canvas")].map((screen) => 1 / screen.dataset.fps);
const frameSeconds = frames.length ? Math.min(...frames) : data.step;

function print() {
  const chosen = view ? Number(view.value) : 0;
  for (const {values, outputs} of charts) outputs.forEach((output, method) => {
    const value = values[chosen][method]?.[point];
    output.textContent = value === null || value === undefined ? "\u2013" : Number(value.toPrecision(3));
  });
}
function show() {
  for (const screen of screens) screen(now);
  for (const {cursor} of charts) for (const end of ["x1", "x2"]) cursor.setAttribute(end, 1000 * now / data.seconds);
  const next = Math.min(Math.floor(now / data.step + 1e-6), Math.ceil(data.seconds / data.step) - 1);
  if (next !== point) {
    point = next;
    print();
  }
  slider.value = now;
  clock.textContent = `${now.toFixed(2)} s` + (data.horizon ? ` \u00b7 ${(now / data.horizon).toFixed(1)}\u00d7 horizon` : "");
  slider.setAttribute("aria-valuetext", clock.textContent);
}
function tick(time) {
  if (!playing) return;
  now += Math.min(0.25, (time - before) / 1000) * speed.value;
  before = time;
  if (now >= data.seconds) now = 0;
  show();
  requestAnimationFrame(tick);
}
function play(wanted) {
  if (wanted && !playing) requestAnimationFrame((time) => {
    before = time;
    tick(time);
  });
  playing = wanted;
  toggle.textContent = playing ? "Pause" : "Play";
}
function stop(time) {
  play(false);
  now = Math.max(0, Math.min(data.seconds, Number(time)));
  show();
}
slider.max = data.seconds;
for (const times of [1, 2, 4, 8, 16]) speed.add(new Option(`${times}\u00d7`, times, false, times === data.speed));
toggle.addEventListener("click", () => {
  play(!playing);
  show();
});
slider.addEventListener("input", () => stop(slider.value));
view?.addEventListener("change", () => {
  for (const {views} of charts) views.forEach((lines, i) => lines.toggleAttribute("hidden", i !== Number(view.value)));
  print();
});
for (const button of document.querySelectorAll("[data-stop]")) button.addEventListener("click", () => stop(button.dataset.stop));
for (const {plot} of charts) {
  const move = (event) => {
    const box = plot.getBoundingClientRect();
    stop(data.seconds * (event.clientX - box.left) / box.width);
  };
  plot.addEventListener("pointerdown", (event) => {
    plot.setPointerCapture(event.pointerId);
    move(event);
  });
  plot.addEventListener("pointermove", (event) => event.buttons && move(event));
}
document.addEventListener("keydown", (event) => {
  if (event.target.closest("select, button, summary, .scroll") || event.ctrlKey || event.altKey || event.metaKey) return;
  const steps = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (steps) stop(now + steps * (event.target === slider ? frameSeconds : data.step));
  else if (event.key === " ") play(!playing);
  else return;
  event.preventDefault();
});
show();
