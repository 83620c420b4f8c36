"""generate.py that is ended before its time: by kills, signals, a full disk or GPU, a reader that leaves."""

import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from actors.generation import video_loop
from settings.compose import ROOT
from tests.fakes.commands import run_script
from tests.fakes.generating import PROMPT, command, frames_of, heard, run, wait_for_bytes

WHOLE = (f"prompt={PROMPT}", "seconds=12")
MANY = pytest.param(range(10), marks=pytest.mark.proof, id="ten times")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[list[numpy.ndarray], int, float]:
    """A video that nobody stopped: its frames, bytes, and the seconds that its process took."""
    path = tmp_path_factory.mktemp("whole") / "x.mp4"
    started = time.monotonic()
    assert run(*WHOLE, f"out={path}").returncode == 0
    return frames_of(path), path.stat().st_size, time.monotonic() - started


def killed(path: Path, wait: Callable[[subprocess.Popen], None]) -> list[numpy.ndarray]:
    """What a process that is killed behind `wait` leaves of the same video."""
    process = subprocess.Popen(command(*WHOLE, f"out={path}"), cwd=ROOT, stderr=subprocess.PIPE)
    wait(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return frames_of(path) if path.exists() else []


def begin(frames: list[numpy.ndarray], expected: list[numpy.ndarray]) -> bool:
    return all(numpy.array_equal(frame, same) for frame, same in zip(frames, expected, strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("moments", [pytest.param([4], id="once"), MANY])
def test_a_video_killed_in_the_middle_plays_and_is_the_beginning_of_the_whole(moments, whole, tmp_path):
    expected, size, _ = whole
    for moment in moments:
        path = tmp_path / f"{moment}.mp4"
        # Odd sizes, so that the kill does not wait for the end of a block or a fragment.
        frames = killed(path, lambda process, path=path, moment=moment: wait_for_bytes(
            process, path, 4000 + moment * size // 11
        ))  # fmt: skip
        assert 0 < len(frames) < len(expected) and begin(frames, expected)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [pytest.param([7], id="once"), MANY])
def test_whenever_a_process_is_killed_there_is_no_video_or_one_that_plays(moments, whole, tmp_path):
    """From its start on: before it has read its arguments, while it loads, at its first frames."""
    expected, _, seconds = whole
    for moment in moments:
        chosen = random.Random(moment)

        def some_time(process: subprocess.Popen, chosen=chosen, moment=moment) -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait((moment + chosen.random()) / 10 * seconds)

        path = tmp_path / f"{moment}.mp4"
        frames = killed(path, some_time)
        assert begin(frames, expected) and (frames or not path.exists())


@pytest.mark.slow
@pytest.mark.parametrize("moments", [pytest.param([0], id="once"), MANY])
def test_a_process_killed_while_its_video_appears_leaves_none_or_one_that_plays(moments, whole, tmp_path):
    """The kill follows the first file in the folder by up to a hundredth of a second."""
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()

        def a_file(process: subprocess.Popen, folder=folder, moment=moment) -> None:
            while not any(folder.iterdir()):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.0005)  # leaves the processor to the process
            time.sleep(random.Random(moment).random() / 100)  # this is the moment, and waits for nothing

        frames = killed(folder / "x.mp4", a_file)
        assert begin(frames, whole[0]) and (frames or not (folder / "x.mp4").exists())
        again = (f"prompt={PROMPT}", "seconds=0.1", f"out={folder}/{'y' if frames else 'x'}.mp4")
        assert run_script("generate.py", *again) == 0


def test_control_c_before_the_first_frame_leaves_no_file_and_says_so(tmp_path, monkeypatch, capsys):
    """While the networks go to their device, say: nothing was opened that the next run would find."""
    monkeypatch.setattr(video_loop, "stream_latents", interrupted)
    assert run_script("generate.py", f"prompt={PROMPT}", f"out={tmp_path}/new/x.mp4") == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def interrupted(*_: object, **options: object) -> Iterator[Tensor]:
    raise KeyboardInterrupt
    yield


def test_a_disk_that_is_full_keeps_the_beginning_and_names_it(tmp_path, capsys):
    path, before = tmp_path / "x.mp4", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        assert run_script("generate.py", f"prompt={PROMPT}", "seconds=30", f"out={path}") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"generate.py: out={path}"), said
    frames = len(frames_of(path))
    assert frames > 10 and f" {frames} " in said


def test_a_reader_that_leaves_ends_the_video_in_one_line():
    process = subprocess.Popen(
        command(f"prompt={PROMPT}", "seconds=inf", "out=-"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(200_000)  # the first frame and a part of the second
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert said.count("\n") == 1 and said.startswith("generate.py: ")


def test_control_c_ends_a_process_in_one_line_and_leaves_a_video_that_plays(tmp_path):
    path = tmp_path / "x.mp4"
    process = subprocess.Popen(
        command(f"prompt={PROMPT}", "seconds=inf", f"out={path}"), cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=heard,
    )  # fmt: skip
    wait_for_bytes(process, path, 20_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert said.count("\n") == 1 and f" {len(frames_of(path))} " in said and f" {path}" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_to_end_leaves_a_video_that_plays_and_a_status_of_its_own(
    number, tmp_path, monkeypatch, capsys
):
    streamed, before = video_loop.stream_latents, signal.getsignal(number)

    def interrupted_later(*arguments, **options) -> Iterator[Tensor]:
        yield from itertools.islice(streamed(*arguments, **options), 3)
        os.kill(os.getpid(), number)  # its handler runs before the next line
        raise AssertionError("the signal was not handled")

    monkeypatch.setattr(video_loop, "stream_latents", interrupted_later)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    path = tmp_path / "x.mp4"
    try:
        assert run_script("generate.py", f"prompt={PROMPT}", "seconds=inf", f"out={path}") == 128 + number
    finally:
        signal.signal(number, before)
    said, frames = capsys.readouterr().err, len(frames_of(path))
    assert said.count("\n") == 1 and frames == 9 and f" {frames} " in said and f" {path}" in said


def test_a_full_gpu_names_what_was_kept_and_the_cure(tmp_path, monkeypatch, capsys):
    streamed = video_loop.stream_latents

    def full(*arguments, **options) -> Iterator[Tensor]:
        yield from itertools.islice(streamed(*arguments, **options), 2)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(video_loop, "stream_latents", full)
    assert run_script("generate.py", f"prompt={PROMPT}", "seeds=[1,2]", "batch=2", f"out={tmp_path}") == 1
    said = capsys.readouterr().err
    assert "batch=2; 6 " in said and said.count("\n") == 1
    assert [len(frames_of(path)) for path in tmp_path.glob("*.mp4")] == [6, 6]
