"""Turn the keys of generate.py into a job: videos resolved, everything checked, the world opened."""

import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from actors.generation.generation_config import PIPE, GenerationConfig
from actors.generation.video_writer import check_encoder
from actors.prompts import prompt_texts
from models.atomic_files import partial_of, require_writable
from models.checkpoints.lora_files import Adapter, check_adapters, read_adapters
from models.checkpoints.weight_files import check_weights
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.user_paths import user_path
from models.wan.network import Wan
from models.worlds.world import World, open_codec, open_text
from models.worlds.world_config import SHIPPED_STUDENT

_FILE_ROWS = 192
"""Rows to which small videos are enlarged. Players show 12 rows as a speck, and H.264 blurs their colours."""
_NAME_LENGTH = 40
"""Characters of a prompt in the name of its file."""


@dataclass(frozen=True)
class PlannedVideo:
    """Holds the prompts, the seed and the output file of one video."""

    script: tuple[tuple[float, str], ...]
    """(second at which it begins, prompt), the first at 0."""
    seed: int
    path: Path | None
    """Output file; None for the pipe."""


@dataclass(frozen=True)
class Job:
    """Holds the checked inputs of generation, except the student's weights."""

    config: GenerationConfig
    shape: StudentConfig
    videos: list[PlannedVideo]
    world: World
    image: Tensor | None
    """First frame [3 H W] in [0, 1]; None where the prompt alone starts the video."""
    checkpoint: Path
    adapters: dict[str, Adapter]
    device: torch.device
    dtype: torch.dtype
    enlarge: int
    """Rows and columns of the file per pixel."""


def open_job(config: GenerationConfig) -> Job:
    """Resolve the videos, check all that needs no weights, and open text encoder and VAE. Raises ConfigError."""
    videos, shape = plan_videos(config), config.student
    try:
        device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError("device", config.device, "no such device", "write device=cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        problem = f"this machine has {torch.cuda.device_count()} GPUs"
        raise ConfigError("device", config.device, problem, "write device=cpu")
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if config.sink is not None:
        shape = replace(shape, sink_frames=config.sink)
    checkpoint, adapters = _check_files(config, shape)
    vae, text_encoder = (config.world_folder(name, checkpoint) for name in ("vae", "text_encoder"))
    text = open_text(shape.wan, text_encoder, user_path(config.text_cache, "text_cache"), device, dtype)
    world = World(open_codec(shape.wan, vae, device, dtype), text)
    stride, sizes = world.codec.space_stride, {}
    for name, patch in zip(("height", "width"), shape.wan.patch_size[1:], strict=True):
        pixels = getattr(config, name) or getattr(shape, name) * stride
        if pixels % (stride * patch):
            raise ConfigError(name, pixels, "no whole number of patches", f"write a multiple of {stride * patch}")
        sizes[name] = pixels // stride
    shape = replace(shape, **sizes)
    rows, columns = shape.height * stride, shape.width * stride
    enlarge = config.enlarge or math.ceil(_FILE_ROWS / rows)
    if config.out != PIPE:
        check_encoder(config.fps, rows * enlarge, columns * enlarge)
    image = None if config.image is None else read_image(config.image, rows, columns)
    for begins_s, _ in videos[0].script:
        if begins_s >= config.seconds:
            print(f"note: the video ends before the scene at {begins_s:g} s begins", file=sys.stderr)
    # Unknown prompts are rejected, long ones cut, and all embeddings cached before the student takes memory.
    world.encode_text.prepare([prompt for video in videos for _, prompt in video.script])
    return Job(config, shape, videos, world, image, checkpoint, adapters, device, dtype, enlarge)


def plan_videos(config: GenerationConfig) -> list[PlannedVideo]:
    """Plan a video for each prompt and seed, prompts first.

    Raises ConfigError if prompts cannot be read, or a file cannot be written or exists.
    """
    if config.prompt_schedule is not None:
        scripts = [tuple((float(begins_s), prompt) for begins_s, prompt in config.prompt_schedule)]
    elif config.prompts is not None:
        prompts = [text for text in prompt_texts(user_path(config.prompts, "prompts")) if text]
        if not prompts:
            raise ConfigError("prompts", config.prompts, "the file has no prompt", "write one prompt a line into it")
        scripts = [((0.0, prompt),) for prompt in prompts]
    else:
        scripts = [((0.0, config.prompt),)]
    chosen = [(script, seed) for script in scripts for seed in config.seeds or [config.seed]]
    paths = _paths(config.out, [(script[0][1], seed) for script, seed in chosen])
    return [PlannedVideo(script, seed, path) for (script, seed), path in zip(chosen, paths, strict=True)]


def read_image(path: str, height: int, width: int) -> Tensor:
    """Read a picture [3 H W] in [0, 1], scaled and cut in the middle to fill the video. Raises ConfigError."""
    try:
        with Image.open(user_path(path, "image")) as picture:
            fitted = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (width, height))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError("image", path, f"cannot be read ({reason})", "write image=FILE, a PNG or JPEG") from error
    pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return pixels.permute(2, 0, 1) / 255


def _paths(out: str, videos: list[tuple[str, int]]) -> list[Path | None]:
    """Name the file of each (prompt, seed), and check that it can be written. Raises ConfigError."""
    if out == PIPE:
        if len(videos) > 1:
            raise ConfigError("out", out, f"a pipe takes one video, not {len(videos)}", "write out=FOLDER")
        return [None]
    words = [re.sub(r"\W+", "_", prompt).strip("_")[:_NAME_LENGTH] for prompt, _ in videos]
    numbered = [(i, word, seed) for i, (word, (_, seed)) in enumerate(zip(words, videos, strict=True))]
    if "{" in out:
        try:
            names = [out.format(index=i, prompt=word, seed=seed) for i, word, seed in numbered]
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            cure = "write no other fields than {index}, {prompt} and {seed}"
            raise ConfigError("out", out, "the pattern cannot be filled", cure) from error
    elif out.lower().endswith(".mp4"):
        if len(videos) > 1:
            cure = "write out=FOLDER, or name_{index}.mp4"
            raise ConfigError("out", out, f"one file for {len(videos)} videos", cure)
        names = [out]
    elif Path(out).suffix and not Path(out).is_dir():
        raise ConfigError("out", out, "no kind of video that can be written", "end it in .mp4, or name a folder")
    else:
        names = [f"{out}/{i:04d}_{word}_{seed}.mp4" for i, word, seed in numbered]
    paths = [user_path(name, "out") for name in names]
    if len(set(paths)) < len(paths):
        raise ConfigError("out", out, "several videos would have one name", "put {index} into it")
    for path in paths:
        try:
            exists = path.exists() or partial_of(path).is_dir()  # the longer name, which may be too long
        except OSError as error:
            raise ConfigError("out", path, f"cannot be written ({error.strerror})", "write another name") from error
        if exists:
            raise ConfigError("out", path, "exists and is never overwritten", "move it, or write another name")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        try:
            require_writable(folder)
        except OSError as error:
            problem = f"cannot be written: {folder} is no folder that you may write in ({error.strerror})"
            raise ConfigError("out", path, problem, "write another path") from error
    return paths


def _check_files(config: GenerationConfig, shape: StudentConfig) -> tuple[Path, dict[str, Adapter]]:
    """Check that checkpoint and LoRA fit the student; returns the path of one and the matrices of the other."""
    if config.checkpoint is None and shape.model != "tiny":
        raise ConfigError("checkpoint", None, f"student.model={shape.model} needs weights", "write checkpoint=FILE")
    path = SHIPPED_STUDENT if config.checkpoint is None else user_path(config.checkpoint, "checkpoint")
    with torch.device("meta"):
        outline = Wan(shape.wan)
    check_weights(path, "checkpoint", outline)
    for name in ("vae", "text_encoder"):
        if getattr(config, name) is not None and not shape.in_wan_world:
            raise ConfigError(name, getattr(config, name), "the tiny world has none", f"leave {name} out")
    if config.lora is None:
        return path, {}
    adapters = read_adapters(user_path(config.lora, "lora"), "lora", config.lora_strength)
    check_adapters(adapters, {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()})
    return path, adapters
