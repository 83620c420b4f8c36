"""Measure the speed of rollouts: video frames per second of one video with a full cache and random weights.

python -m benchmarks.rollout_fps model=tiny                     CPU, seconds
python -m benchmarks.rollout_fps model=mid against=FOLDER       CPU, minutes: Wan's proportions, width 512, 12 layers
python -m benchmarks.rollout_fps model=wan_1_3b compile=true    a GPU: 480x832, 4 steps, window of 21 frames, bfloat16
More keys: dtype=float32|bfloat16, blocks=8 (timed), repeats=5, vae=true|false (decoding too; default: Wan on a GPU),
layers=2 (a rehearsal with the first layers only).

One JSON line. `limit` is the rate at which the GPU would do nothing but the blocks' matrix products, as fast as the
largest product measured in the same run. `roofline_share` compares with products and attention at the network's own
sizes, each as fast as torch computes it alone, measured after every repeat. Only whole blocks are timed, by events on a
GPU: nothing in a block waits for the device, and neither does the clock. Noise is drawn before. With the VAE, blocks
are made and decoded as generate.py does it, on a GPU beside the next block, and timed by a clock until their bytes are
on the CPU; `vae_block_ms` is that of decoding alone, and `peak_memory_with_vae_gb` counts both. The paper's line: 17
frames per second on an H100, with or without VAE is not reported.

against=FOLDER, a checkout of another commit (git worktree add FOLDER COMMIT), adds a line: how many times as fast this
commit makes a block, each commit in its own process of one thread, blocks in turns (see benchmarks/lock_step.py).
"""

import resource
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor

from actors.generation.streaming import show_blocks
from benchmarks.ceilings import BlockFlops, ShapeRates, block_seconds, matmul_flops_per_s
from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.lock_step import in_turns
from benchmarks.measured_network import MODELS, keep_layers, measured_student
from cluster.planning import memory
from models.errors import ConfigError
from models.flow_matching import warped_sigmas
from models.keys import KeyGroup, key
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.sampler import SampledBlock, stream_blocks
from models.user_paths import user_path
from models.wan import flash_attention
from models.wan.network import ComputeSpec, Wan
from models.wan.quantized import check_quantization, quantize_blocks
from models.worlds.video_codec import TinyCodec, VideoCodec, video_frames

WARM_UP = 2
"""Number of untimed blocks with a full cache: kernels are chosen and graphs compiled in them."""


@dataclass(kw_only=True)
class Options(KeyGroup):
    """Describes a measurement."""

    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    dtype: str | None = key(
        None, "precision: float32 or bfloat16; none: bfloat16 on a GPU", choices=tuple(memory.BYTES)
    )
    compile: bool = key(False, "compile the networks with torch.compile, block by block")
    quantize: str | None = key(
        None, "numbers of the blocks' products: int8 or fp8; none: those of dtype", choices=("int8", "fp8")
    )
    vae: bool | None = key(None, "decode too; none: for Wan on a GPU")
    blocks: int = key(8, "blocks that are timed in each repeat", ge=1)
    repeats: int = key(5, "repeats", ge=1)
    layers: int | None = key(None, "layers of the network; none: all", ge=1)
    against: str | None = key(None, "folder with a checkout of another commit, to be timed in turns; none: no line")

    def __post_init__(self):
        super().__post_init__()
        if self.vae and self.model == "tiny":
            raise ConfigError("vae", True, "the tiny world's latents are its pixels", "leave vae out")
        if self.against is not None and self.layers is not None:
            raise ConfigError("layers", self.layers, "against=FOLDER measures whole networks", "leave layers out")


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
    student = measured_student(options.model)
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))
    wants_vae = (gpu and options.model != "tiny") if options.vae is None else options.vae
    check_quantization(options.quantize, device)
    blocks = endless(student, device, dtype, options.compile, options.quantize)
    filling_s, last = fill_seconds(blocks, student, device)
    counted, made_s, rates, peak_bytes = BlockFlops.of(student), [], [], []
    for _ in range(options.repeats):
        made_s.append(block_seconds(lambda: next(blocks), options.blocks, device))
        if not rates:
            peak_bytes.append(peak_memory(device))
            shapes = ShapeRates(student, device, dtype)
        rates.append(shapes.measure())
    codec = open_codec(options.model, device if wants_vae else torch.device("meta"), dtype)
    decoded_s, streamed_s = None, None
    if wants_vae:
        decoded_s = statistics.median(decode_seconds(last.x0, codec, options.repeats, device))
        streamed_s = statistics.median(stream_seconds(blocks, codec, options, device))
        peak_bytes.append(peak_memory(device))
    peak = matmul_flops_per_s(device, dtype, options.repeats)
    frames, flops = block_video_frames(student, codec), counted.products + counted.attention
    block_s = statistics.median(made_s)
    least_s = [counted.least_seconds(*rate) for rate in rates]
    config = {
        "model": options.model,
        "layers": student.wan.num_layers,
        "latent": list(student.frame_shape),
        "steps": len(student.timesteps),
        "attention_frames": student.attention_frames,
        "dtype": str(dtype).removeprefix("torch."),
        "compile": options.compile,
        "quantize": options.quantize,
        "attention": (gpu and flash_attention.selected_module()) or "torch",
        "torch": torch.__version__,
    }
    print_line(
        "rollout_fps",
        [frames / s for s in made_s],
        "video frames/s",
        device_name(device),
        config,
        limit=frames * peak / flops,
        fps_with_vae=None if streamed_s is None else round(frames / streamed_s, 3),
        block_ms=round(1000 * block_s, 3),
        block_ms_by_cached_frames={cached: round(1000 * s, 3) for cached, s in filling_s.items()},
        roofline_share=round(statistics.median(least / s for least, s in zip(least_s, made_s, strict=True)), 4),
        roofline_block_ms=round(1000 * statistics.median(least_s), 3),
        product_tflop_per_s=round(statistics.median(rate for rate, _ in rates) / 1e12, 6),
        attention_tflop_per_s=round(statistics.median(rate for _, rate in rates) / 1e12, 6),
        vae_block_ms=None if decoded_s is None else round(1000 * decoded_s, 3),
        tflop_per_s=round(flops / block_s / 1e12, 6),
        matmul_tflop_per_s=round(peak / 1e12, 6),
        block_tflop=round(flops / 1e12, 6),
        peak_memory_gb=round(peak_bytes[0] / 1e9, 3),
        peak_memory_with_vae_gb=round(peak_bytes[1] / 1e9, 3) if wants_vae else None,
        peak_reserved_gb=peak_reserved_gb(device),
    )
    if options.against is not None:
        print_ratio(options, config, device_name(device))


def print_ratio(options: Options, config: dict[str, object], device: str) -> None:
    """Time this commit and the other in turns, and print how many times as fast this one is."""
    named = {"model": options.model, "dtype": config["dtype"], "compile": options.compile}
    own_s, other_s, other = in_turns(user_path(options.against, "against"), named, options.blocks * options.repeats)
    ratios = [theirs / ours for ours, theirs in zip(own_s, other_s, strict=True)]
    print_line(
        "rollout_speed_ratio", ratios, "times as fast", device, config,
        against=other, block_ms=round(1000 * statistics.median(own_s), 3),
        against_block_ms=round(1000 * statistics.median(other_s), 3),
    )  # fmt: skip


def device_name(device: torch.device) -> str:
    """Name a device in a line of results."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def endless(
    student: StudentConfig, device: torch.device, dtype: torch.dtype, compiled: bool, quantized: str | None = None
) -> Iterator[SampledBlock]:
    """Yield the blocks of one video without end, by a network with random weights."""
    computing = ComputeSpec(device, dtype, compiled)
    with torch.device(device):
        weights = computing.cast(Wan(student.wan).state_dict())
    network = computing.outline(student.wan)
    network.load_state_dict(weights, assign=True)
    quantize_blocks(network, quantized)
    text = torch.randn(1, student.wan.text_len, student.wan.text_dim, device=device, dtype=dtype)
    noise = DrawnNoise(len(student.timesteps), (student.block_frames, *student.frame_shape), device)
    sigmas = warped_sigmas(student.timesteps, student.shift)
    return stream_blocks(network, text, noise, sigmas, RollingCache(student.wan, student.context_frames))


def fill_seconds(
    blocks: Iterator[SampledBlock], student: StudentConfig, device: torch.device
) -> tuple[dict[int, float], SampledBlock]:
    """Make blocks until the cache is full and the device warm; return seconds by cached frames, and the last block.

    The first lengths of a compiled network have the compiler's time in them.
    """
    seconds, made = {}, deque(maxlen=1)
    for number in range(student.attention_frames // student.block_frames + WARM_UP):
        cached = min(number * student.block_frames, student.context_frames)
        seconds[cached] = block_seconds(lambda: made.append(next(blocks)), 1, device)
    return seconds, made[-1]


def block_video_frames(student: StudentConfig, codec: VideoCodec) -> int:
    """Count the video frames of a block behind the first."""
    return video_frames(codec, 1 + student.block_frames) - video_frames(codec, 1)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_reserved_gb(device: torch.device) -> float | None:
    """Return the most GB that torch's allocator has taken from the GPU so far, fragments included; None on a CPU."""
    return round(torch.cuda.max_memory_reserved() / 1e9, 3) if device.type == "cuda" else None


def open_codec(model: str, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    """Return the tiny world's codec, or Wan's VAE with random weights."""
    if model == "tiny":
        return TinyCodec()
    from diffusers import AutoencoderKLWan  # seconds to import, as is the codec

    from models.wan.vae import WanCodec

    with torch.device(device):
        return WanCodec(AutoencoderKLWan().to(dtype))


def decode_seconds(latents: Tensor, codec: VideoCodec, repeats: int, device: torch.device) -> list[float]:
    """Time the decoding of latents [B F C H W]; the codec's memory continues from one decoding to the next."""
    _, past = codec.decode(latents)

    def decode() -> None:
        nonlocal past
        _, past = codec.decode(latents, past)

    for _ in range(WARM_UP):
        decode()
    return [block_seconds(decode, 1, device) for _ in range(repeats)]


def stream_seconds(
    blocks: Iterator[SampledBlock], codec: VideoCodec, options: Options, device: torch.device
) -> list[float]:
    """Time one block of frames after another, from nothing to bytes on the CPU."""
    shown_s: list[float] = []
    count = WARM_UP + options.repeats * options.blocks
    latents = (block.x0 for block in islice(blocks, count))
    show_blocks(latents, codec, device, lambda frames: shown_s.append(time.perf_counter()))
    marks = shown_s[WARM_UP - 1 :: options.blocks]
    return [(later - earlier) / options.blocks for earlier, later in pairwise(marks)]


if __name__ == "__main__":
    run(main, __doc__, Options)
