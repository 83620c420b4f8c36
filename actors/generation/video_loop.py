"""Generate the videos of a job, batch by batch: stream latents, decode, write, show progress."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from actors.generation.generation_config import PIPE, GenerationConfig
from actors.generation.job import Job
from actors.generation.overlapping import stream_horizons
from actors.generation.planned_videos import PlannedVideo, single_config, videos_together
from actors.generation.staggered import Staggering, stream_staggered
from actors.generation.streaming import Scene, show_blocks, stream_latents
from actors.generation.video_formats import open_writer
from actors.generation.video_record import repeat_notes, write_record
from actors.generation.video_writer import FramePipe, VideoWriter
from models.checkpoints.lora_files import Adapter, attach_adapters
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError, StopsRun
from models.fingerprint import fingerprint
from models.flow_matching import warped_sigmas
from models.noise import BlockNoise
from models.wan.network import ComputeSpec, Wan
from models.wan.quantized import quantize_blocks


class VideoEnded(StopsRun):
    """Ends a video early, with the reason and the file of its frames."""

    def __init__(self, reason: str, writers: Sequence[VideoWriter], status: int = 1):
        kept = ", ".join(f"{writer.frames} frames are in {writer.name}" for writer in writers if writer.frames)
        super().__init__(f"{reason}; {kept or 'no whole frame was written'}")
        self.status = status


class VideoMeter:
    """Shows frames, frames per second, time to the first frame and time left, on standard error. Use as a context."""

    def __init__(self, frames: float, report: Callable[[int, int], None] | None = None):
        """Count up to `frames`, the video frames of a whole batch; infinite for a video without end.

        `report`, where given, takes frames done and in all, and nothing is shown.
        """
        console, self.report = Console(stderr=True), report
        self.bar = Progress(
            BarColumn(), TextColumn("{task.fields[line]}", markup=False), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=console, disable=report is not None or not console.is_terminal,
        )  # fmt: skip
        self.total, self.done = frames, 0
        self.started_s = time.monotonic()
        self.first = ""
        self.task = self.bar.add_task("", total=None if math.isinf(frames) else frames, line="")

    def __enter__(self) -> "VideoMeter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def add(self, frames: int) -> None:
        """Note that `frames` more have been written."""
        self.done += frames
        if not self.first:
            self.first = f", first after {time.monotonic() - self.started_s:.2f} s"
        self.bar.update(self.task, completed=self.done, line=self.line())
        if self.report is not None:
            self.report(self.done, int(self.total))

    def line(self) -> str:
        """Write the numbers in one line."""
        rate = self.done / max(time.monotonic() - self.started_s, 1e-9)
        total = "" if math.isinf(self.total) else f"/{self.total:.0f}"
        return f"{self.done}{total} frames, {rate:.1f} frames/s{self.first}"


def generate_videos(job: Job, report: Callable[[int, int], None] | None = None) -> None:
    """Load the student and generate every video of the job; `report` takes the frames of a batch done and in all.

    Raises VideoEnded for a video that ends early; its frames stay. Raises ConfigError for damaged weights.
    """
    student = load_student(job)
    weights = f"{fingerprint(student.state_dict()):016x}"
    machine = {"device": job.device.type, "dtype": str(job.dtype), "threads": torch.get_num_threads()}
    if job.config.from_json is not None:
        for note in repeat_notes(job.config, weights, machine | {"together": 1}):
            print(f"note: {note}", file=sys.stderr)
    quantize_blocks(student, job.config.quantize)
    if job.device.type == "cuda" if job.config.compile is None else job.config.compile:
        student.compile_blocks()
    pipe = None
    if job.config.out == PIPE:  # frames alone: all other output, also from C, goes to standard error
        pipe = os.dup(1)
        os.dup2(2, 1)
    for together in videos_together(job.videos, job.config.batch):
        made_by = partial(
            write_record, checkpoint=job.checkpoint, weights=weights, machine=machine | {"together": len(together)}
        )
        generate_batch(job, student, together, pipe, made_by, report)


def load_student(job: Job) -> Wan:
    """Load the student in its dtype, tensor by tensor: never more than one tensor beside it.

    Raises VideoEnded where the device is full, ConfigError for damaged weights.
    """
    matrices = {name: one for name, one in job.adapters.items() if isinstance(one, Adapter)}
    live = matrices if job.config.lora_live else {}
    merged = {name: one for name, one in job.adapters.items() if name not in live}
    try:
        student = ComputeSpec(job.device, job.dtype).outline(job.shape.wan).to_empty(device=job.device)
        load_weights(student, job.checkpoint, "checkpoint", adapters=merged)
        if live:
            attach_adapters(student, live)
    except torch.OutOfMemoryError as error:
        raise VideoEnded(f"device={job.device} has too little memory for the student; give another", ()) from error
    return student.eval()


def generate_batch(
    job: Job, student: Wan, videos: Sequence[PlannedVideo], pipe: int | None, record: Callable[..., None],
    report: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Generate `videos` at the same time; each has its `record` from its first frame on. Raises VideoEnded."""
    config, shape, codec = job.config, job.shape, job.world.codec
    noise = BlockNoise([v.seed for v in videos], (shape.block_frames, *shape.frame_shape), job.device)
    start, frames = _start_of(job, videos), videos[0].continued_frames + config.frames
    rows, columns = (size * codec.space_stride * job.enlarge for size in (shape.height, shape.width))
    writers: list[VideoWriter] = [
        FramePipe(pipe) if video.path is None else open_writer(video.path, config.rate, rows, columns)
        for video in videos
    ]
    try:
        with ExitStack() as files, VideoMeter(len(videos) * config.frames, report) as meter:
            for planned, writer in zip(videos, writers, strict=True):
                files.callback(_record, config, planned, writer, record)  # behind the last frame, called after close
                files.callback(writer.close)
            show = _shown_in(job, videos, writers, meter, record)
            scenes = _scenes(job, videos)
            latents = _stream_of(config)(student, shape, scenes, noise, codec, frames, start)
            show_blocks(latents, codec, job.device, show)
    except BrokenPipeError as error:
        raise VideoEnded("the reader has closed the pipe", writers) from error
    except OSError as error:
        reason = f"out={config.out} cannot be written ({error.strerror or error}); make room, or change out"
        raise VideoEnded(reason, writers) from error
    except torch.OutOfMemoryError as error:
        smaller = f"lower batch={config.batch}" if config.batch > 1 else "lower height and width"
        raise VideoEnded(f"the memory of device={job.device} is full; {smaller}", writers) from error
    except KeyboardInterrupt as error:  # of another signal it carries the number
        raise VideoEnded("stopped", writers, 128 + (error.args[0] if error.args else signal.SIGINT)) from error
    print("\n".join(writer.name for writer in writers) + f": {meter.line()}", file=sys.stderr)


def _stream_of(config: GenerationConfig) -> Callable[..., Iterator[Tensor]]:
    """Return the function that streams the latents of a batch, as `stream_latents` does, by the method of the keys."""
    if config.extend == "overlap":
        return partial(stream_horizons, overlap=config.overlap or config.student.block_frames)
    if config.sampler == "staggered":
        levels = Staggering(
            warped_sigmas(config.denoising_timesteps(config.student), config.student.shift),
            1 if config.stagger is None else config.stagger,
            config.solver or "renoise",
            config.context_noise or 0.0,
        )
        return partial(stream_staggered, levels=levels)
    return partial(stream_latents, recache=config.recache)


def _shown_in(
    job: Job, videos: Sequence[PlannedVideo], writers: Sequence[VideoWriter], meter: VideoMeter,
    record: Callable[..., None],
) -> Callable[[Tensor], None]:  # fmt: skip
    """Return the function that writes frames, uint8 [B T H W 3], in turn: the last may reach beyond the video."""
    pieces = count()

    def show(frames: Tensor) -> None:
        if next(pieces) == 0 and videos[0].continued_frames:
            return  # the clip's own frames
        left = job.config.frames - meter.done / len(videos)
        shown = frames[:, : int(min(left, frames.shape[1]))]
        for planned, writer, video in zip(videos, writers, shown.numpy(), strict=True):
            writer.write(video.repeat(job.enlarge, axis=1).repeat(job.enlarge, axis=2))
            _record(job.config, planned, writer, record)
        meter.add(len(videos) * shown.shape[1])

    return show


def _record(config: GenerationConfig, planned: PlannedVideo, writer: VideoWriter, record: Callable[..., None]) -> None:
    """Write the record of a video that has frames in its file, once. Raises OSError."""
    if planned.path is not None and writer.frames and not planned.path.with_suffix(".json").exists():
        record(planned.path, single_config(config, planned))


def _scenes(job: Job, videos: Sequence[PlannedVideo]) -> list[Scene]:
    """Encode the prompts of a batch, scene by scene, from the cache that `open_job` filled. Raises VideoEnded."""
    scenes = []
    try:
        for together in zip(*(video.script for video in videos), strict=True):
            text = job.world.encode_text([prompt for _, prompt in together])
            first = videos[0].continued_frames + round(together[0][0] * job.config.rate)
            scenes.append(Scene(first, text.to(job.device)))
    except ConfigError as error:
        raise VideoEnded(str(error), (), 2) from error
    return scenes


def _start_of(job: Job, videos: Sequence[PlannedVideo]) -> Tensor | None:
    """Read the starts of a batch of videos, [B T 3 H W]; None for none. Raises VideoEnded."""
    if videos[0].start is None:
        return None
    try:
        frames = {video.start: job.start_frames.get(video.start) for video in videos}
        frames = {start: job.reader.read(start)[0] if read is None else read for start, read in frames.items()}
        return torch.stack([frames[video.start] for video in videos]).to(job.device)
    except (ConfigError, RuntimeError) as error:  # it has changed since it was checked
        raise VideoEnded(str(error), (), 2) from error
