"""Measure the speed of rollouts: video frames per second of one video with a full cache and random weights.

python -m benchmarks.rollout_fps model=tiny                     CPU, seconds
python -m benchmarks.rollout_fps model=wan_1_3b compile=true    a GPU: 480x832, 4 steps, window of 21 frames, bfloat16
More keys: dtype=float32|bfloat16, blocks=8 (timed), repeats=5, vae=true|false (decoding too; default: Wan on a GPU),
layers=2 (a rehearsal with the first layers only).

One JSON line. `limit` is the rate at which the GPU would do nothing but the blocks' matrix products, as fast as the
largest product measured in the same run. Only whole blocks are timed, by events on a GPU: nothing in a block waits for
the device, and neither does the clock. Noise is drawn before. With the VAE, blocks are made and decoded as generate.py
does it, on a GPU beside the next block, and timed by a clock until their bytes are on the CPU; `vae_block_ms` is that
of decoding alone, and `peak_memory_with_vae_gb` counts both. The paper's line: 17 frames per second
on an H100, with or without VAE is not reported.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import torch
from torch import Tensor

import settings
from actors.generation.streaming import show_blocks
from benchmarks.command import run
from benchmarks.line import print_line
from cluster.planning import flops, memory
from models.errors import ConfigError
from models.flow_matching import warped_sigmas
from models.keys import KeyGroup, key
from models.kv_cache import RollingCache
from models.network_config import CONFIGS, StudentConfig
from models.sampler import SampledBlock, stream_blocks
from models.wan import flash_attention
from models.wan.network import Wan
from models.worlds.video_codec import TinyCodec, VideoCodec, video_frames

MODELS = ("tiny", "wan_1_3b")
_WARM_UP = 2
"""Number of untimed blocks with a full cache: kernels are chosen and graphs compiled in them."""
_PRODUCT = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the product that the peak is measured with."""


@dataclass(kw_only=True)
class Options(KeyGroup):
    """Describes a measurement."""

    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    dtype: str | None = key(
        None, "precision: float32 or bfloat16; none: bfloat16 on a GPU", choices=tuple(memory.BYTES)
    )
    compile: bool = key(False, "compile the networks with torch.compile, block by block")
    vae: bool | None = key(None, "decode too; none: for Wan on a GPU")
    blocks: int = key(8, "blocks that are timed in each repeat", ge=1)
    repeats: int = key(5, "repeats", ge=1)
    layers: int | None = key(None, "layers of the network; none: all", ge=1)

    def __post_init__(self):
        super().__post_init__()
        if self.vae and self.model == "tiny":
            raise ConfigError("vae", True, "the tiny world's latents are its pixels", "leave vae out")


class DrawnNoise:
    """Returns the same noise for every block, drawn in advance: its values do not affect speed."""

    def __init__(self, steps: int, block_shape: tuple[int, int, int, int], device: torch.device):
        self.block_shape = block_shape
        self.steps = torch.randn(steps, 1, *block_shape, device=device)

    def draw(self, block: int, step: int) -> Tensor:
        """Draw noise [1 F C H W]."""
        return self.steps[step]


def main(options: Options) -> None:
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    keep_layers(options.model, options.layers)
    student = settings.load([f"preset={options.model}"]).student
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))
    wants_vae = (gpu and options.model != "tiny") if options.vae is None else options.vae
    blocks = endless(student, device, dtype, options.compile)
    for _ in range(student.attention_frames // student.block_frames + _WARM_UP):
        last = next(blocks)
    made_s = [block_seconds(lambda: next(blocks), options.blocks, device) for _ in range(options.repeats)]
    peak_bytes = [peak_memory(device)]
    codec = open_codec(options.model, device if wants_vae else torch.device("meta"), dtype)
    decoded_s, streamed_s = None, None
    if wants_vae:
        decoded_s = statistics.median(decode_seconds(last, codec, options, device))
        streamed_s = statistics.median(stream_seconds(blocks, codec, options, device))
        peak_bytes.append(peak_memory(device))
    peak = matmul_flops_per_s(device, dtype, options.repeats)
    frames, flops = block_video_frames(student, codec), executed_flops(student)
    block_s = statistics.median(made_s)
    print_line(
        "rollout_fps",
        [frames / s for s in made_s],
        "video frames/s",
        device_name(device),
        {
            "model": options.model,
            "layers": student.wan.num_layers,
            "latent": list(student.frame_shape),
            "steps": len(student.timesteps),
            "attention_frames": student.attention_frames,
            "dtype": str(dtype).removeprefix("torch."),
            "compile": options.compile,
            "attention": (gpu and flash_attention.selected_module()) or "torch",
            "torch": torch.__version__,
        },
        limit=frames * peak / flops,
        fps_with_vae=None if streamed_s is None else round(frames / streamed_s, 3),
        block_ms=round(1000 * block_s, 3),
        vae_block_ms=None if decoded_s is None else round(1000 * decoded_s, 3),
        tflop_per_s=round(flops / block_s / 1e12, 6),
        matmul_tflop_per_s=round(peak / 1e12, 6),
        block_tflop=round(flops / 1e12, 6),
        peak_memory_gb=round(peak_bytes[0] / 1e9, 3),
        peak_memory_with_vae_gb=round(peak_bytes[1] / 1e9, 3) if wants_vae else None,
    )


def keep_layers(model: str, layers: int | None) -> None:
    """Cut this process's networks of that name to their first `layers`; None keeps all."""
    if layers is not None:
        name = settings.load([f"preset={model}"]).student.model
        CONFIGS[name] = replace(CONFIGS[name], num_layers=layers)


def device_name(device: torch.device) -> str:
    """Name a device in a line of results."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def endless(student: StudentConfig, device: torch.device, dtype: torch.dtype, compiled: bool) -> Iterator[SampledBlock]:
    """Yield the blocks of one video without end, by a network with random weights."""
    with torch.device(device):
        network = Wan(student.wan).to(dtype).eval().requires_grad_(False)
    if compiled:
        network.compile_blocks()
    text = torch.randn(1, student.wan.text_len, student.wan.text_dim, device=device, dtype=dtype)
    noise = DrawnNoise(len(student.timesteps), (student.block_frames, *student.frame_shape), device)
    sigmas = warped_sigmas(student.timesteps, student.shift)
    return stream_blocks(network, text, noise, sigmas, RollingCache(student.wan, student.context_frames))


def executed_flops(student: StudentConfig) -> float:
    """Count the FLOPs of the transformer's blocks for one block of frames with a full cache.

    Unlike `flops.rollout_flops` without what the read leaves out: the last layer but for its keys and values.
    """
    wan, tokens = student.wan, student.wan.tokens_per_frame(student.height, student.width)
    queries, keys = student.block_frames * tokens, student.attention_frames * tokens
    steps = len(student.timesteps) * flops.pass_flops(wan, queries, keys)
    return steps + flops.pass_flops(wan, queries, keys, wan.num_layers - 1) + 4.0 * queries * wan.dim**2


def block_video_frames(student: StudentConfig, codec: VideoCodec) -> int:
    """Count the video frames of a block behind the first."""
    return video_frames(codec, 1 + student.block_frames) - video_frames(codec, 1)


def block_seconds(make: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the mean time of `count` calls, one after the other."""
    if device.type == "cpu":
        started = time.perf_counter()
        for _ in range(count):
            make()
        return (time.perf_counter() - started) / count
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(count):
        make()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / count


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_codec(model: str, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    """Return the tiny world's codec, or Wan's VAE with random weights."""
    if model == "tiny":
        return TinyCodec()
    from diffusers import AutoencoderKLWan  # seconds to import, as is the codec

    from models.wan.vae import WanCodec

    with torch.device(device):
        return WanCodec(AutoencoderKLWan().to(dtype))


def decode_seconds(block: SampledBlock, codec: VideoCodec, options: Options, device: torch.device) -> list[float]:
    """Time the decoding of a block; the codec's memory continues from block to block."""
    _, past = codec.decode(block.x0)

    def decode() -> None:
        nonlocal past
        _, past = codec.decode(block.x0, past)

    for _ in range(_WARM_UP):
        decode()
    return [block_seconds(decode, 1, device) for _ in range(options.repeats)]


def stream_seconds(
    blocks: Iterator[SampledBlock], codec: VideoCodec, options: Options, device: torch.device
) -> list[float]:
    """Time one block of frames after another, from nothing to bytes on the CPU."""
    shown_s: list[float] = []
    count = _WARM_UP + options.repeats * options.blocks
    latents = (block.x0 for block in islice(blocks, count))
    show_blocks(latents, codec, device, lambda frames: shown_s.append(time.perf_counter()))
    marks = shown_s[_WARM_UP - 1 :: options.blocks]
    return [(later - earlier) / options.blocks for earlier, later in pairwise(marks)]


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Return the best rate of one large product, which no other work can beat."""
    size = _PRODUCT[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    block_seconds(multiply, 3, device)
    return 2.0 * size**3 / min(block_seconds(multiply, 5, device) for _ in range(repeats))


if __name__ == "__main__":
    run(main, __doc__, Options)
