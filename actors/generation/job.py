"""What generate.py is asked for: its arguments read, and checked as far as they can be before the student is loaded."""

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from actors.generation.generation_config import PIPE, GenerationConfig
from actors.generation.video_plan import PlannedVideo, plan_videos, read_image
from actors.generation.video_writer import check_encoder
from models.checkpoints.formats import open_checkpoint
from models.checkpoints.known_networks import recognise_network
from models.checkpoints.lora_files import Adapter, check_adapters, read_adapters
from models.checkpoints.weight_files import check_network_fit
from models.network_config import StudentConfig
from models.user_paths import user_path
from models.wan.network import Wan
from models.worlds.world import World, open_world
from models.worlds.world_config import SHIPPED_STUDENT

_FILE_ROWS = 192
"""Rows that a video of fewer is enlarged to: players show 12 rows as a speck, and H.264 blurs their colours."""


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


def prepare(config: GenerationConfig, shape: StudentConfig, presets: Collection[str] = ()) -> Job:
    """Check everything that needs no network, and open the text encoder and the VAE.

    `presets` are the names that `preset=` may take. Raises ValueError, in one line with the key to change.
    """
    videos = plan_videos(config)
    device = _device(config)
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if config.checkpoint is None and shape.model != "tiny":
        raise ValueError(f"student.model={shape.model} needs weights; give checkpoint=")
    checkpoint = SHIPPED_STUDENT if config.checkpoint is None else user_path(config.checkpoint, "checkpoint")
    with torch.device("meta"):
        outline = Wan(shape.wan)
    _check_student(checkpoint, shape, outline, presets)
    for name in ("vae", "text_encoder"):
        if getattr(config, name) is not None and not shape.in_wan_world:
            raise ValueError(f"{name}={getattr(config, name)}, but the tiny world has none; leave it out")
    adapters = {} if config.lora is None else _adapters(config, outline)
    vae, text_encoder = config.vae_folder(checkpoint), config.text_encoder_folder(checkpoint)
    world = open_world(shape.wan, vae, text_encoder, config.text_cache_folder, device, dtype)
    shape = _sized(config, shape, world.codec.space_stride)
    rows, columns = (size * world.codec.space_stride for size in (shape.height, shape.width))
    enlarge = config.enlarge or math.ceil(_FILE_ROWS / rows)
    if config.out != PIPE:
        try:
            check_encoder(config.fps, rows * enlarge, columns * enlarge)
        except ValueError as error:
            raise ValueError(f"{error}; make both even and below 16000 by enlarge, height and width") from error
    image = None if config.image is None else read_image(config.image, rows, columns)
    for scene in videos[0].scenes:
        if scene.begins_s >= config.seconds:
            print(f"note: the video ends before the scene at {scene.begins_s:g} s begins", file=sys.stderr)
    # Refused, or cut and said, or put into the cache, before the student takes memory.
    world.encode_text.prepare([scene.prompt for video in videos for scene in video.scenes])
    return Job(config, shape, videos, world, image, checkpoint, adapters, device, dtype, enlarge)


def _adapters(config: GenerationConfig, outline: Wan) -> dict[str, Adapter]:
    adapters = read_adapters(user_path(config.lora, "lora"), "lora", config.lora_strength)
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    check_adapters(adapters, shapes, f"lora={config.lora}")
    return adapters


def _check_student(path: Path, shape: StudentConfig, outline: Wan, presets: Collection[str]) -> None:
    checkpoint = open_checkpoint(path, "checkpoint")
    try:
        check_network_fit(checkpoint, "checkpoint", outline)
    except ValueError as error:
        name = recognise_network(checkpoint)
        if name in (None, shape.model):
            raise ValueError(f"checkpoint={error}, preset or student.model ({shape.model})") from error
        cure = f"preset={name}" if name in presets else f"student.model={name}"
        raise ValueError(f"checkpoint={path} is {name}, and the student {shape.model}; give {cure}") from error


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
