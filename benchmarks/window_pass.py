"""Compare the learner's masked pass over a window with generating the window again, block by block.

python -m benchmarks.window_pass model=mid     CPU, two minutes
More keys: repeats=3 (each pass forward and backward, in turns), layers=2 (a rehearsal with the first layers only).

One JSON line: how many times as fast the masked pass (dmd.replay=masked) is as dmd.replay=blockwise, which runs all
denoising steps. Both compute x0 of the same window with gradient. `gradient_difference` is the largest one between
their gradients in float64, relative to the largest gradient, by the first two layers.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import MODELS, keep_layers, measured_student
from benchmarks.rollout_fps import device_name
from learner.replay import Batch, blockwise_x0, collate, masked_x0
from models.flow_matching import warped_sigmas
from models.keys import KeyGroup, key
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import STUDENT, Window
from models.sampler import stream_blocks
from models.wan.network import Wan

_BURN_IN = 9
"""Clean frames before the context of the window, which begins right behind both: the replay is exact."""


@dataclass(kw_only=True)
class WindowOptions(KeyGroup):
    """Describes a measurement of passes over a window."""

    model: str = key("mid", "network: " + ", ".join(MODELS), choices=MODELS)
    repeats: int = key(3, "repeats", ge=1)
    layers: int | None = key(None, "layers of the network; none: all", ge=1)


def main(options: WindowOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_layers(options.model, options.layers)
    student = measured_student(options.model)
    masked, blockwise = passes_of(student, device, torch.float32)
    timed_s = [(_seconds(masked, device), _seconds(blockwise, device)) for _ in range(options.repeats)]
    keep_layers(options.model, min(2, student.wan.num_layers))  # last: layers that are cut do not come back
    difference = gradient_difference(passes_of(measured_student(options.model), device, torch.float64))
    print_line(
        "window_pass_ratio", [slow / fast for fast, slow in timed_s], "times as fast", device_name(device),
        {"model": options.model, "layers": student.wan.num_layers, "frames": student.horizon_frames,
         "latent": list(student.frame_shape), "dtype": "float32", "torch": torch.__version__},
        masked_s=round(statistics.median(fast for fast, _ in timed_s), 4),
        blockwise_s=round(statistics.median(slow for _, slow in timed_s), 4),
        gradient_difference=difference,
    )  # fmt: skip


def passes_of(
    student: StudentConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], dict[str, Tensor]], Callable[[], dict[str, Tensor]]]:
    """Return the masked pass and the one block by block over one window; each returns gradients by weight."""
    torch.manual_seed(0)
    with torch.device(device):
        network = Wan(student.wan).to(dtype)
    text = torch.randn(1, student.wan.text_len, student.wan.text_dim, dtype=dtype).to(device)
    batch, sigmas = recorded_batch(network, student, text), warped_sigmas(student.timesteps, student.shift)
    weights = torch.randn(batch.latents.shape, device=device)
    last = torch.tensor(sigmas[-1:], device=device)

    def gradients(x0: Callable[[], Tensor]) -> dict[str, Tensor]:
        network.zero_grad()
        (x0() * weights).mean().backward()
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    return (
        lambda: gradients(lambda: masked_x0(network, student, batch, batch.noisy, last)),
        lambda: gradients(lambda: blockwise_x0(network, student, batch, sigmas)),
    )


def recorded_batch(network: Wan, student: StudentConfig, text: Tensor) -> Batch:
    """Roll the student out until behind a window of one horizon, and return it with all frames before it."""
    seed, block, frames = 0, student.block_frames, student.horizon_frames
    start, sigmas = student.context_frames + _BURN_IN, warped_sigmas(student.timesteps, student.shift)
    noise = BlockNoise([seed], (block, *student.frame_shape), text.device)
    made = stream_blocks(network, text, noise, sigmas, KVCache(student.wan, student.context_frames))
    blocks = list(islice(made, (start + frames) // block))
    clean, noisy = torch.cat([one.x0 for one in blocks], dim=1)[0], torch.cat([one.inputs[-1] for one in blocks], 1)[0]
    window = Window(
        rollout=0, attempt=0, index=0, role=STUDENT, prompt="", seed=seed, start=start, step=len(sigmas) - 1,
        versions=(0,), context=clean[:start], latents=clean[start:], noisy=noisy[start:],
    )  # fmt: skip
    return collate([window], lambda prompts: text, text.device)


def gradient_difference(passes: tuple[Callable[[], dict[str, Tensor]], Callable[[], dict[str, Tensor]]]) -> float:
    """Return the largest difference between the passes' gradients, relative to the largest gradient."""
    one, other = ({name: grad.clone() for name, grad in gradients().items()} for gradients in passes)
    assert one.keys() == other.keys()
    largest = max(float(grad.abs().max()) for grad in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main, __doc__, WindowOptions)
