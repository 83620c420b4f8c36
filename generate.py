"""A video from a prompt, of any length, block by block: the student as it rolls out in training."""

import sys
from dataclasses import fields

import settings
from actors.generation.generation_config import GenerationConfig
from models.network_config import StudentConfig
from models.terminal import answer_help

USAGE = """python generate.py prompt="..." out=video.mp4 [key=value ...]

Writes the video while it is made; whatever stops it, the file plays. The student's shape is that of the preset.
  python generate.py preset=tiny prompt="a red disc drifts slowly over a cool wall" seconds=30 out=x.mp4
  python generate.py prompt="..." seconds=inf out=- | ffplay -f rawvideo -pixel_format rgb24 -video_size 192x192 -"""


def explain() -> str:
    """The text of --help."""
    own = [(field.name, field.default, field.metadata["doc"]) for field in fields(GenerationConfig)]
    keys = [*own, *settings.all_keys(StudentConfig, "student.")]
    presets = "|".join(sorted(path.stem for path in (settings.ROOT / "conf/preset").glob("*.yaml")))
    width = max(len(name) for name, _, _ in keys)
    lines = [f"  {name:<{width}}  {doc} [{'none' if value is None else value}]" for name, value, doc in keys]
    return "\n".join([USAGE, "", f"  {'preset':<{width}}  {presets} [tiny]", *lines])


if __name__ == "__main__":
    answer_help(explain)

# ruff: noqa: E402  (help should not wait for what takes seconds to import)
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from actors.generation.generation_config import PIPE
from actors.generation.job import Job, prepare
from actors.generation.streaming import Scene, stream_latents
from actors.generation.video_decoder import show_blocks
from actors.generation.video_meter import VideoMeter
from actors.generation.video_plan import PlannedVideo
from actors.generation.video_writer import FramePipe, Mp4File, VideoWriter
from models.checkpoints.lora_files import attach_adapters
from models.checkpoints.weight_files import load_weights
from models.noise import BlockNoise
from models.wan.network import Wan
from settings.generation_arguments import read_arguments


class Ended(Exception):
    """The video is shorter than was asked for: why, and where the part that was made lies."""

    def __init__(self, reason: str, writers: Sequence[VideoWriter], status: int = 1):
        kept = ", ".join(f"{writer.frames} frames are in {writer.name}" for writer in writers if writer.frames)
        super().__init__(f"{reason}; {kept or 'no whole frame was written'}")
        self.status = status


def generate(job: Job, student: Wan, videos: Sequence[PlannedVideo], pipe: int | None) -> None:
    """Make `videos` at the same time. Raises Ended where they end early; what was made of them stays."""
    config, shape = job.config, job.shape
    noise = BlockNoise([v.seed for v in videos], (shape.block_frames, *shape.frame_shape), job.device)
    image = None if job.image is None else job.image.to(job.device).expand(len(videos), *job.image.shape)
    writers = [_writer(job, video, pipe) for video in videos]
    left = config.frames
    try:
        with ExitStack() as opened, VideoMeter(len(videos) * config.frames) as meter:
            for writer in writers:
                opened.callback(writer.close)

            def show(frames: Tensor) -> None:
                nonlocal left
                taken = frames[:, : int(min(left, frames.shape[1]))]
                for writer, video in zip(writers, taken.numpy(), strict=True):
                    writer.write(video.repeat(job.enlarge, axis=1).repeat(job.enlarge, axis=2))
                left -= taken.shape[1]
                meter.add(len(videos) * taken.shape[1])

            codec, scenes = job.world.codec, _scenes(job, videos)
            latents = stream_latents(student, shape, scenes, noise, codec, left, image, config.recache)
            show_blocks(latents, codec, job.device, show)
    except BrokenPipeError as error:
        raise Ended("nobody reads the pipe any more", writers) from error
    except OSError as error:
        reason = f"out={config.out} cannot be written ({error.strerror or error}); make room, or change out"
        raise Ended(reason, writers) from error
    except torch.OutOfMemoryError as error:
        raise Ended(_no_memory(job), writers) from error
    except KeyboardInterrupt as error:
        raise Ended("stopped", writers, _status(error)) from error
    print("\n".join(writer.name for writer in writers) + f": {meter.line()}", file=sys.stderr)


def _scenes(job: Job, videos: Sequence[PlannedVideo]) -> list[Scene]:
    """The texts of a batch, which `prepare` left in the cache. Raises Ended where they cannot be read again."""
    scenes = []
    try:
        for together in zip(*(video.scenes for video in videos), strict=True):
            text = job.world.encode_text([planned.prompt for planned in together])
            scenes.append(Scene(round(together[0].begins_s * job.config.fps), text.to(job.device)))
    except ValueError as error:
        raise Ended(str(error), (), 2) from error
    return scenes


def _no_memory(job: Job) -> str:
    smaller = f"lower batch={job.config.batch}" if job.config.batch > 1 else "lower height and width"
    return f"the memory of device={job.device} is full; {smaller}"


def _writer(job: Job, video: PlannedVideo, pipe: int | None) -> VideoWriter:
    if video.path is None:
        return FramePipe(pipe)
    rows, columns = (size * job.world.codec.space_stride * job.enlarge for size in (job.shape.height, job.shape.width))
    return Mp4File(video.path, job.config.fps, rows, columns)


def main(arguments: Sequence[str]) -> int:
    """Make what `arguments` ask for; the exit status. Mistakes and early ends are one line on standard error."""
    try:
        try:
            job = prepare(*read_arguments(arguments), settings.choices()["preset"])
            student = Wan(job.shape.wan)
            live = job.config.lora_live
            load_weights(student, job.checkpoint, "checkpoint", adapters=None if live else job.adapters)
            if live:
                attach_adapters(student, job.adapters)
        except ValueError as error:
            print(f"generate.py: {error}", file=sys.stderr)
            return 2
        try:
            student = student.to(job.device, job.dtype).eval()
        except torch.OutOfMemoryError as error:
            raise Ended(
                f"device={job.device} has too little memory for the student; give another device", ()
            ) from error
        if job.compiled:
            student.compile_blocks()
        pipe = _free_output() if job.config.out == PIPE else None
        for first in range(0, len(job.videos), job.config.batch):
            generate(job, student, job.videos[first : first + job.config.batch], pipe)
    except Ended as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt as error:
        print("generate.py: stopped before the first frame", file=sys.stderr)
        return _status(error)
    return 0


class Signalled(KeyboardInterrupt):
    """Stopped as by Ctrl-C, but by another signal."""


def stop(number: int, _: object) -> None:
    """Handle a signal. Raises Signalled."""
    raise Signalled(number)


def _status(error: KeyboardInterrupt) -> int:
    return 128 + (error.args[0] if isinstance(error, Signalled) else signal.SIGINT)


def _free_output() -> int:
    """A descriptor of standard output for frames alone: whatever else prints, in C too, goes to standard error."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, stop)
    sys.exit(main(sys.argv[1:]))
