"""Turn the keys of generate.py into a job: videos resolved, everything checked, the world opened."""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from actors.generation.free_memory import free_memory
from actors.generation.generation_config import PIPE, GenerationConfig
from actors.generation.planned_videos import PlannedVideo, plan_videos
from actors.generation.start_frames import Start, StartReader, start_reader
from actors.generation.video_formats import check_format
from models.checkpoints.hub import weights_path
from models.checkpoints.lora_files import Adapters, read_loras
from models.checkpoints.safetensors_files import open_safetensors
from models.checkpoints.weight_containers import SAFETENSORS, container_of
from models.checkpoints.weight_files import check_weights, verify_weights
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.network_sizes import sampling_bytes
from models.user_paths import user_path
from models.wan.device_faults import COMPILER_FIX, compiler_fault, driver_fault
from models.wan.network import Wan
from models.wan.quantized import check_quantization
from models.wan.tiny_decoder import TinyDecoderCodec
from models.worlds.tiny_world import FPS
from models.worlds.world import World, open_codec, open_text
from models.worlds.world_config import SHIPPED_STUDENT

_FILE_ROWS = 192
"""Rows to which small videos are enlarged. Players show 12 rows as a speck, and H.264 blurs their colours."""
_MOST_NOTES = 10
"""Notes on starts that are printed: a folder may have thousands."""


@dataclass(frozen=True)
class Job:
    """Holds the checked inputs of generation, except the student's weights."""

    config: GenerationConfig
    shape: StudentConfig
    videos: list[PlannedVideo]
    world: World
    reader: StartReader
    """Reader of the videos' starts."""
    start_frames: dict[Start, Tensor]
    """Frames [T 3 H W] in [0, 1] of the only start; empty where there is none, or several, which are read again."""
    checkpoint: Path
    adapters: Adapters
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
        problem = driver_fault() or f"this machine has {torch.cuda.device_count()} GPUs"
        raise ConfigError("device", config.device, problem, "write device=cpu")
    compiled = device.type == "cuda" if config.compile is None else config.compile
    if compiled and (fault := compiler_fault(device.type)) is not None:
        raise ConfigError("compile", True, fault, COMPILER_FIX.format(key="compile"))
    check_quantization(config.quantize, device)
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if config.sink is not None:
        shape = replace(shape, sink_frames=config.sink)
    stride = shape.space_stride
    shape = replace(
        shape,
        height=(config.height or shape.height * stride) // stride,
        width=(config.width or shape.width * stride) // stride,
    )
    _require_memory(config, shape, device, dtype, len(videos))
    checkpoint, adapters, effects = _check_files(config, shape)
    given = {name: getattr(config, name) for name in ("vae", "text_encoder")}
    found = {name: weights_path(value, name) for name, value in given.items() if value is not None}
    vae, text_encoder = (found.get(name) or config.world_folder(name, checkpoint) for name in given)
    text = open_text(shape.wan, text_encoder, user_path(config.text_cache, "text_cache"), device, dtype)
    world = World(open_codec(shape.wan, vae, device, dtype), text)
    if config.extend == "overlap" and isinstance(world.codec, TinyDecoderCodec):
        problem = "a tiny decoder encodes no frames, as extend=overlap needs"
        raise ConfigError("vae", vae, problem, "write vae=a folder of Wan2.1, or its Wan2.1_VAE.pth")
    rows, columns = shape.height * stride, shape.width * stride
    enlarge = config.enlarge or math.ceil(_FILE_ROWS / rows)
    for video in videos[:1] if config.out != PIPE else ():
        check_format(video.path, config.rate, rows, columns, enlarge)
    for note in effects + _notes(config, videos, rows, columns):
        print(f"note: {note}", file=sys.stderr)
    reader = start_reader(config, shape, world.codec)
    videos, start_frames = _read_starts(videos, reader)
    # Unknown prompts are rejected, long ones cut, and all embeddings cached before the student takes memory.
    world.encode_text.prepare([prompt for video in videos for _, prompt in video.script])
    return Job(config, shape, videos, world, reader, start_frames, checkpoint, adapters, device, dtype, enlarge)


def _notes(config: GenerationConfig, videos: list[PlannedVideo], rows: int, columns: int) -> list[str]:
    """List notes on keys that may be meant otherwise."""
    notes = [
        f"the video ends before the scene at {begins_s:g} s begins"
        for begins_s in sorted({begins_s for video in videos for begins_s, _ in video.script})
        if begins_s >= config.seconds
    ]
    if config.rate != FPS:
        speed = float(config.rate / FPS)
        notes.append(
            f"fps={config.fps}: networks learn {FPS} frames per second, so things move {speed:.3g} times as fast"
        )
    usual = [size * config.student.space_stride for size in (config.student.height, config.student.width)]
    if usual == [columns, rows] != [rows, columns]:
        notes.append(f"height={rows} and width={columns}: the preset has these sides the other way round")
    elif [rows, columns] != usual:
        tokens = rows * columns / math.prod(usual)
        was = f"the preset's student learned {usual[0]} x {usual[1]} pixels"
        notes.append(f"height={rows} and width={columns}: {was}; a frame has {tokens:.2g} times the tokens")
    return notes


def _read_starts(videos: list[PlannedVideo], reader: StartReader) -> tuple[list[PlannedVideo], dict[Start, Tensor]]:
    """Read each start once, to check and to count its frames; returns them too where there is one. Prints notes."""
    read: dict[Start, Tensor] = {}
    texts: list[str] = []
    lengths: dict[Start | None, int] = {None: 0}
    for start in dict.fromkeys(video.start for video in videos if video.start is not None):
        frames, notes = reader.read(start)
        lengths[start], read = len(frames), {start: frames}
        texts += [f"{start.key}={start.path}: {note}" for note in notes]
    more = [f"{len(texts) - _MOST_NOTES} more notes like these"] if len(texts) > _MOST_NOTES else []
    for note in texts[:_MOST_NOTES] + more:
        print(f"note: {note}", file=sys.stderr)
    counted = [replace(video, start_frames=lengths[video.start]) for video in videos]
    return counted, read if len(lengths) == 2 else {}


def _require_memory(
    config: GenerationConfig, shape: StudentConfig, device: torch.device, dtype: torch.dtype, videos: int
) -> None:
    """Refuse a batch of videos that the free memory of the device can never hold. Raises ConfigError."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    together = min(config.batch, videos)
    needed = sampling_bytes(shape, together, dtype.itemsize)
    if needed <= free:
        return
    problem = f"sampling holds {needed / 1e9:.1f} GB at least, and {free / 1e9:.1f} GB of {device.type} memory are free"
    if together > 1 and (alone := sampling_bytes(shape, 1, dtype.itemsize)) <= free:
        raise ConfigError("batch", config.batch, problem, f"write batch={max(1, int(free / alone))} or less")
    if dtype == torch.float32 and sampling_bytes(shape, together, torch.bfloat16.itemsize) <= free:
        raise ConfigError("dtype", "float32", problem, "write dtype=bfloat16")
    name, value = ("height", shape.height * shape.space_stride) if config.sink is None else ("sink", config.sink)
    raise ConfigError(name, value, problem, "write a smaller height and width, or a smaller sink")


def _check_files(config: GenerationConfig, shape: StudentConfig) -> tuple[Path, Adapters, list[str]]:
    """Check that checkpoint and LoRAs fit the student; returns the path of one, and the others with their effects."""
    if config.checkpoint is None and shape.model != "tiny":
        raise ConfigError("checkpoint", None, f"student.model={shape.model} needs weights", "write checkpoint=FILE")
    path = SHIPPED_STUDENT if config.checkpoint is None else weights_path(config.checkpoint, "checkpoint")
    with torch.device("meta"):
        outline = Wan(shape.wan)
    check_weights(path, "checkpoint", outline)
    verify_weights(path, "checkpoint")
    plain = path.is_file() and container_of(path) == SAFETENSORS
    if plain and any(name.startswith("pretrain/") for name in open_safetensors(path, "checkpoint").metadata):
        problem = "a teacher, which makes all frames of a video at once"
        raise ConfigError("checkpoint", path, problem, "write the student's weights")
    for name in ("vae", "text_encoder"):
        if getattr(config, name) is not None and not shape.in_wan_world:
            raise ConfigError(name, getattr(config, name), "the tiny world has none", f"leave {name} out")
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    adapters, lines = read_loras(config.chosen_loras(), config.lora_part, shapes)
    if config.lora_live and any(isinstance(adapter, torch.Tensor) for adapter in adapters.values()):
        lines.append("lora_live keeps matrices apart; whole differences are merged")
    return path, adapters, lines
