"""Compare rollouts on a cache with diffusers' transformer, which computes the whole window again for every step.

python -m benchmarks.full_recomputation model=mid     CPU, two minutes
More keys: repeats=3 (a block of each, in turns), layers=2 (a rehearsal with the first layers only).

One JSON line: how many times as fast a block is. Without a cache a block takes one pass of diffusers'
WanTransformer3DModel over the window of 21 frames for each denoising step; with it, passes over the block's own frames,
and one more that writes the cache.
"""

import statistics
from dataclasses import dataclass

import torch

from benchmarks.ceilings import block_seconds
from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import MODELS, keep_layers, measured_student
from benchmarks.rollout_fps import WARM_UP, device_name, endless
from models.keys import KeyGroup, key
from models.network_config import StudentConfig
from models.worlds.random_wan import random_transformer


@dataclass(kw_only=True)
class RecomputationOptions(KeyGroup):
    """Describes a comparison with full recomputation."""

    model: str = key("mid", "network: " + ", ".join(MODELS), choices=MODELS)
    repeats: int = key(3, "repeats", ge=1)
    layers: int | None = key(None, "layers of the networks; none: all", ge=1)


def main(options: RecomputationOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    keep_layers(options.model, options.layers)
    student = measured_student(options.model)
    cached, whole = endless(student, device, dtype, False), WholeWindow(student, device, dtype)
    for _ in range(student.attention_frames // student.block_frames + WARM_UP):
        next(cached)
    whole.make_block()
    timed_s = [
        (block_seconds(lambda: next(cached), 1, device), block_seconds(whole.make_block, 1, device))
        for _ in range(options.repeats)
    ]
    print_line(
        "full_recomputation_ratio", [slow / fast for fast, slow in timed_s], "times as fast", device_name(device),
        {"model": options.model, "layers": student.wan.num_layers, "latent": list(student.frame_shape),
         "steps": len(student.timesteps), "attention_frames": student.attention_frames,
         "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__},
        cached_block_s=round(statistics.median(fast for fast, _ in timed_s), 4),
        recomputed_block_s=round(statistics.median(slow for _, slow in timed_s), 4),
    )  # fmt: skip


class WholeWindow:
    """Makes blocks by diffusers' transformer over a whole window."""

    def __init__(self, student: StudentConfig, device: torch.device, dtype: torch.dtype):
        self.network = random_transformer(student.wan).to(device).to(dtype)
        channels, *size = student.frame_shape
        self.latents = torch.randn(1, channels, student.attention_frames, *size, device=device, dtype=dtype)
        self.text = torch.randn(1, student.wan.text_len, student.wan.text_dim, device=device, dtype=dtype)
        self.timesteps = [torch.tensor([step], device=device) for step in student.timesteps]

    @torch.no_grad()
    def make_block(self) -> None:
        """Run all denoising steps of the window's last block."""
        for timestep in self.timesteps:
            self.network(self.latents, timestep, self.text, return_dict=False)


if __name__ == "__main__":
    run(main, __doc__, RecomputationOptions)
