"""Measure the distance of a rebuilt cache from the actor's, by burn-in length, on a trained student.

python -m benchmarks.burn_in [student.safetensors]   one JSON line: relative L2 of x0 recomputed by the learner from
clean frames against the x0 that the actor recorded, same weights, last denoising step, windows at frame 102.
"""

import statistics
import sys
from pathlib import Path

import torch

from actors.rollout_actor import RolloutActor
from actors.rollout_config import WindowConfig
from benchmarks.line import print_line
from learner.replay import collate, masked_x0
from models.checkpoints.weight_files import load_weights
from models.network_config import StudentConfig
from models.records import STUDENT, Rollout, Weights, Window, WindowPlan
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.fixed_weights import FixedWeights

ROOT = Path(__file__).resolve().parent.parent
START, VIDEOS = 102, 8
BURN_IN = [0, 3, 6, 9, 12, 18, 24, 27, 93]


@torch.no_grad()
def errors(student: torch.nn.Module, shape: StudentConfig, burn_in: int) -> list[float]:
    """Return the relative L2 error of each of VIDEOS windows."""
    actor = RolloutActor(
        shape, WindowConfig(burn_in_frames=burn_in), encode_text, TinyCodec(), FixedWeights(Weights.of(0, student))
    )
    plan = (WindowPlan(STUDENT, START, len(shape.timesteps) - 1, 0),)
    rollouts = [Rollout(i, 0, PROMPTS[7 * i % 72], 10_000 + i, 120, plan) for i in range(VIDEOS)]
    windows = [item for item in actor.windows(rollouts) if isinstance(item, Window)]
    batch = collate(windows, encode_text, torch.device("cpu"))
    sigma = torch.full((VIDEOS,), actor.sigmas[-1])
    x0 = masked_x0(student, shape, batch, batch.noisy, sigma)
    return ((x0 - batch.latents).flatten(1).norm(dim=1) / batch.latents.flatten(1).norm(dim=1)).tolist()


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets/tiny/student_uniform.safetensors"
    shape = StudentConfig()
    student = Wan(shape.wan).eval()
    load_weights(student, path, "student")
    table = {burn_in: errors(student, shape, burn_in) for burn_in in BURN_IN}
    print_line(
        "burn_in_error",
        table[9],
        "relative L2 of x0 at 9 frames of burn-in",
        "cpu, one thread",
        {"student": path.name, "context_frames": shape.context_frames, "layers": shape.wan.num_layers},
        value=statistics.mean(table[9]),
        by_burn_in_frames={b: {"mean": statistics.mean(e), "max": max(e)} for b, e in table.items()},
    )


if __name__ == "__main__":
    main()
