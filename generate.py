"""A video from a prompt, of any length, block by block: the student as it rolls out in training."""

import sys
from dataclasses import dataclass, fields, replace

import settings
from actors.generation_config import GenerationConfig
from models.config import StudentConfig

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


if __name__ == "__main__" and {"--help", "-h"} & set(sys.argv[1:]):
    print(explain())
    sys.exit(0)

# ruff: noqa: E402  (help should not wait for what takes seconds to import)
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from actors.generation_config import PIPE
from actors.generation_plan import PlannedVideo, plan_videos, read_image
from actors.streaming import Scene, stream_latents
from actors.video_decoder import show_blocks
from actors.video_meter import VideoMeter
from actors.video_writer import FramePipe, Mp4File, VideoWriter
from cluster.config import SHIPPED_STUDENT
from models.files import check_weights, load_weights
from models.lora_files import Adapter, check_adapters, read_adapters
from models.noise import BlockNoise
from models.wan import Wan
from models.world import World, open_world

_LITERAL = ("checkpoint", "vae", "text_encoder", "text_cache", "prompt", "prompts", "image", "out", "device", "dtype")
_FILE_ROWS = 192
"""Rows that a video of fewer is enlarged to: players show 12 rows as a speck, and H.264 blurs their colours."""


class Ended(Exception):
    """The video is shorter than was asked for: why, and where the part that was made lies."""

    def __init__(self, reason: str, writers: Sequence[VideoWriter], status: int):
        kept = ", ".join(f"{writer.frames} frames are in {writer.name}" for writer in writers if writer.frames)
        super().__init__(f"{reason}; {kept or 'no whole frame was written'}")
        self.status = status


@dataclass(frozen=True)
class Job:
    """What was asked for, checked as far as it can be before the student is loaded."""

    config: GenerationConfig
    shape: StudentConfig
    videos: list[PlannedVideo]
    world: World
    image: Tensor | None
    """[3 H W]."""
    checkpoint: Path
    adapters: dict[str, Adapter]
    device: torch.device
    dtype: torch.dtype
    enlarge: int

    @property
    def compiled(self) -> bool:
        """Whether compiling is asked for, or worth its time."""
        return self.device.type == "cuda" if self.config.compile is None else self.config.compile


def read_arguments(arguments: Sequence[str]) -> tuple[GenerationConfig, StudentConfig]:
    """The keys of this script, and the student's shape. Raises ValueError, in one line with the key to change."""
    own = {field.name for field in fields(GenerationConfig)}
    given, shape = {}, []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f'"{argument}" cannot be read; write key=value; --help lists every key')
        if name in own:
            # Prompts and paths are taken as they are: Hydra's grammar refuses commas and quotes, YAML colons.
            given[name] = value.replace("${", r"\${") if name in _LITERAL else _parsed(name, value)
        elif name == "preset" or name.startswith("student."):
            shape.append(argument)
        else:
            raise ValueError(f"{name} is no key of generate.py; --help lists every key")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GenerationConfig), given))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}; --help lists every key") from error
    student = settings.load(shape).student
    return config, student if config.sink is None else replace(student, sink_frames=config.sink)


def _parsed(name: str, value: str) -> object:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={value} cannot be read ({' '.join(str(error).split())})") from error


def prepare(arguments: Sequence[str]) -> Job:
    """Check everything that needs no network. Raises ValueError, in one line with the key to change."""
    config, shape = read_arguments(arguments)
    videos = plan_videos(config)
    device = _device(config)
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if config.checkpoint is None and shape.model != "tiny":
        raise ValueError(f"student.model={shape.model} needs weights; give checkpoint=")
    checkpoint = SHIPPED_STUDENT if config.checkpoint is None else Path(config.checkpoint).expanduser()
    with torch.device("meta"):
        outline = Wan(shape.wan)
    check_weights(checkpoint, "checkpoint", outline)
    adapters = {} if config.lora is None else _adapters(config, outline)
    vae, text_encoder = config.vae_folder(checkpoint), config.text_encoder_folder(checkpoint)
    world = open_world(shape.wan, vae, text_encoder, config.text_cache_folder, device, dtype)
    shape = _sized(config, shape, world.codec.space_stride)
    rows, columns = (size * world.codec.space_stride for size in (shape.height, shape.width))
    enlarge = config.enlarge or math.ceil(_FILE_ROWS / rows)
    if rows * enlarge % 2 or columns * enlarge % 2:
        raise ValueError(f"frames of {rows * enlarge}x{columns * enlarge} are odd, which H.264 cannot hold; enlarge=2")
    image = None if config.image is None else read_image(config.image, rows, columns)
    # Refused, or cut and said, or put into the cache, before the student takes memory.
    world.encode_text.prepare([scene.prompt for video in videos for scene in video.scenes])
    return Job(config, shape, videos, world, image, checkpoint, adapters, device, dtype, enlarge)


def _adapters(config: GenerationConfig, outline: Wan) -> dict[str, Adapter]:
    adapters = read_adapters(Path(config.lora).expanduser(), "lora", config.lora_strength)
    check_adapters(adapters, {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()})
    return adapters


def _device(config: GenerationConfig) -> torch.device:
    try:
        device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={config.device} is no device; give cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={config.device}, but {torch.cuda.device_count()} GPUs are here; give device=cpu")
    return device


def _sized(config: GenerationConfig, shape: StudentConfig, stride: int) -> StudentConfig:
    """The shape with `height` and `width`, given in pixels."""
    sizes = {}
    for name, patch in zip(("height", "width"), shape.wan.patch_size[1:], strict=True):
        pixels = getattr(config, name) or getattr(shape, name) * stride
        if pixels % (stride * patch):
            raise ValueError(f"{name} is {pixels}, no multiple of {stride * patch} pixels")
        sizes[name] = pixels // stride
    return replace(shape, **sizes)


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
        raise Ended("nobody reads the pipe any more", writers, 1) from error
    except OSError as error:
        reason = f"out={config.out} cannot be written ({error.strerror or error}); make room, or change out"
        raise Ended(reason, writers, 1) from error
    except torch.OutOfMemoryError as error:
        raise Ended(_no_memory(job), writers, 1) from error
    except KeyboardInterrupt as error:
        raise Ended("stopped", writers, 130) from error
    print(f"{', '.join(writer.name for writer in writers)}: {meter.line()}", file=sys.stderr)


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
            job = prepare(arguments)
            student = Wan(job.shape.wan)
            load_weights(student, job.checkpoint, "checkpoint", adapters=job.adapters)
        except ValueError as error:
            print(f"generate.py: {error}", file=sys.stderr)
            return 2
        student = student.to(job.device, job.dtype).eval()
        if job.compiled:
            student.compile_blocks()
        pipe = _free_output() if job.config.out == PIPE else None
        for first in range(0, len(job.videos), job.config.batch):
            generate(job, student, job.videos[first : first + job.config.batch], pipe)
    except Ended as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("generate.py: stopped before the first frame", file=sys.stderr)
        return 130
    return 0


def _free_output() -> int:
    """A descriptor of standard output for frames alone: whatever else prints, in C too, goes to standard error."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
