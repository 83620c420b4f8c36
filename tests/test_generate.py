"""generate.py as a person runs it: what it leaves behind, however it ends."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy
import pytest

import generate
from settings import ROOT

PROMPT = "a red disc drifts slowly over a cool wall"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "generate.py", "preset=tiny", *arguments]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, timeout=300, **options)


def frames_of(path: Path) -> list[numpy.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def wait_for_bytes(process: subprocess.Popen, path: Path, size: int) -> None:
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None, process.stderr.read()


def test_a_prompt_becomes_a_video_of_the_asked_length(tmp_path):
    shown = run(f"prompt={PROMPT}", "seconds=2.5", f"out={tmp_path}/x.mp4")
    assert shown.returncode == 0, shown.stderr
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 40 and frames[0].shape == (192, 192, 3)
    assert shown.stdout == b"" and b"40/40 frames" in shown.stderr


@pytest.mark.slow
def test_a_video_killed_at_any_moment_plays_and_is_the_beginning_of_the_whole(tmp_path):
    whole = tmp_path / "whole.mp4"
    assert run(f"prompt={PROMPT}", "seconds=30", f"out={whole}").returncode == 0
    expected, size = frames_of(whole), whole.stat().st_size
    for moment in range(10):
        path = tmp_path / f"killed_{moment}.mp4"
        arguments = (f"prompt={PROMPT}", "seconds=30", f"out={path}")
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE)
        # Odd sizes, so that the kill does not wait for the end of a block or a fragment.
        wait_for_bytes(process, path, 4000 + moment * size // 11)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        frames = frames_of(path)
        assert 0 < len(frames) < len(expected)
        assert all(numpy.array_equal(frame, same) for frame, same in zip(frames, expected, strict=False))


def test_control_c_says_one_line_and_leaves_a_video_that_plays(tmp_path):
    path = tmp_path / "x.mp4"
    process = subprocess.Popen(
        command(f"prompt={PROMPT}", "seconds=inf", f"out={path}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_for_bytes(process, path, 20_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    frames = frames_of(path)
    assert process.returncode == 130
    assert said == f"generate.py: stopped; {len(frames)} frames are in {path}\n"


def test_a_disk_that_is_full_keeps_the_beginning_and_names_it(tmp_path):
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    path = tmp_path / "x.mp4"
    shown = run(f"prompt={PROMPT}", "seconds=30", f"out={path}", preexec_fn=little_room)
    said = shown.stderr.decode()
    assert shown.returncode == 1 and said.count("\n") == 1, said
    assert f"frames are in {path}" in said
    assert len(frames_of(path)) > 10


def test_a_pipe_gets_the_frames_and_nothing_else(tmp_path):
    arguments = (f"prompt={PROMPT}", "seconds=1", "enlarge=2", "seed=3")
    shown = run(*arguments, "out=-")
    assert shown.returncode == 0, shown.stderr
    frames = numpy.frombuffer(shown.stdout, numpy.uint8).reshape(16, 24, 24, 3)
    assert run(*arguments, f"out={tmp_path}/x.mp4").returncode == 0
    filmed = numpy.stack(frames_of(tmp_path / "x.mp4")).astype(int)
    assert numpy.abs(filmed - frames).mean() < 8  # of 255: colours are stored at half the resolution


def test_a_reader_that_leaves_ends_the_video_in_one_line():
    process = subprocess.Popen(
        command(f"prompt={PROMPT}", "seconds=inf", "out=-"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(10_000)
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert said.count("\n") == 1 and "Broken pipe" in said and "frames are in the pipe" in said
