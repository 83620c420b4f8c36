"""Measure gain and cost of stage grpo: students of the tiny world against the one they started from.

python -m benchmarks.grpo_gain [before=student.safetensors] after=student.safetensors [...]
One JSON line per student: the share of the reward's gap to real videos that it closed, on held-out prompts over 8
teacher horizons; next to it flow magnitude, dynamic degree and validity. Every student has the same prompts and
noise, four videos of each prompt.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

import settings
from actors.generation.streaming import make_videos
from benchmarks.line import print_line
from cluster.config.run_config import Config
from evaluation.tiny_metrics import segment_metrics
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.noise import evaluation_seeds
from models.wan.network import Wan
from models.worlds.tiny_prompts import HELD_OUT_PROMPTS
from models.worlds.tiny_world import encode_text, sample_video, to_latents, to_pixels
from rewards.flow.flow_motion import fastest
from rewards.flow.optical_flow import DisFlow
from rewards.scorer import Scorer

HORIZONS = 8
PROMPTS = HELD_OUT_PROMPTS * 4
"""Four videos per prompt: with one, the standard error of .07 is too large to compare seeds."""
TOP_SHARE = 0.2
"""Share of the fastest pixels of a frame (the sprite is a sixth), whatever the reward measures motion by."""
SHIPPED = "assets/tiny/student_uniform.safetensors"
REAL = "real videos"


def seeds() -> list[int]:
    """Return one seed for each video."""
    return evaluation_seeds(1, len(PROMPTS))


def videos_of(path: Path, config: Config) -> Tensor:
    """Generate latents [B F C H W] of a student, HORIZONS long."""
    student = Wan(config.student.wan).eval()
    load_weights(student, path, "student")
    frames = HORIZONS * config.student.horizon_frames
    return make_videos(student, config.student, PROMPTS, seeds(), frames, encode_text, lambda done: None)


def real_videos(config: Config) -> Tensor:
    """Return the videos of the same prompts, as the world shows them."""
    frames = HORIZONS * config.student.horizon_frames
    drawn = (torch.Generator().manual_seed(seed) for seed in seeds())
    return to_latents(torch.stack([sample_video(p, frames, g) for p, g in zip(PROMPTS, drawn, strict=True)]))


def measured(latents: Tensor, config: Config, bar: Tensor) -> dict[str, float]:
    """Measure rewards after the first horizon, the reference; flow, dynamic degree and validity over all of them.

    The bar of motion is the first horizon of `bar` [B F C H W], the student that the stage began with: one that has
    slowed is not held to its own beginning.
    """
    horizon, names = config.student.horizon_frames, list(config.reward.weights)
    scorer = Scorer(config.reward, names, to_pixels)
    flow = DisFlow(config.reward.upsample, config.reward.finest_scale)
    scores: dict[str, list[float]] = {name: [] for name in names}
    moved = []
    for prompt, video, first in zip(PROMPTS, latents, bar[:, :horizon], strict=True):
        scored = scorer.score(prompt, video[None, horizon:], video[:horizon], video[:horizon], first).values
        for name in names:
            scores[name] += [score for score in scored[name][0] if not math.isnan(score)]
        moved.append(fastest(flow(to_pixels(video[None])[0]), TOP_SHARE)[0].mean())
    metrics = segment_metrics(to_pixels(latents), PROMPTS, horizon)
    means = {name: sum(values) / HORIZONS for name, values in metrics.items()}
    reward = sum(
        weight * sum(scores[name]) / len(scores[name]) for name, weight in config.reward.weights.items() if weight
    )
    each = {f"reward_{name}": sum(values) / len(values) for name, values in scores.items()}
    return {
        "reward": reward,
        "flow": float(torch.stack(moved).mean()),
        "dynamic_degree": means["dynamic_degree"],
        "validity": means["validity"],
        "last_validity": metrics["validity"][-1],
    } | each


def compared(after: Mapping[str, float], before: Mapping[str, float], real: Mapping[str, float]) -> dict[str, float]:
    """Return the share of the gap from `before` to `real` that `after` closed, and the change of other metrics."""
    return {
        "gap_closed": (after["reward"] - before["reward"]) / (real["reward"] - before["reward"]),
        "flow_kept": after["flow"] / before["flow"],
        "dynamic_degree_kept": after["dynamic_degree"] / before["dynamic_degree"],
        "validity_change": after["validity"] - before["validity"],
    }


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    before = next((a.partition("=")[2] for a in arguments if a.startswith("before=")), str(settings.ROOT / SHIPPED))
    students = [a.partition("=")[2] for a in arguments if a.startswith("after=")]
    if not students:
        raise ConfigError("after", None, "no student is given", "write after=STUDENT.safetensors, once or more often")
    config = settings.load([a for a in arguments if not a.startswith(("before=", "after="))])
    for path in [before, *students]:  # a wrong one is found before minutes are spent
        load_weights(Wan(config.student.wan), Path(path), "before" if path == before else "after")
    began = videos_of(Path(before), config)
    results = {REAL: measured(real_videos(config), config, began), before: measured(began, config, began)}
    for path in [before, *students]:
        if path not in results:
            results[path] = measured(videos_of(Path(path), config), config, began)
        gains = compared(results[path], results[before], results[REAL])
        print_line(
            "grpo_gain",
            [gains["gap_closed"]],
            "share of the reward gap to real videos closed",
            "cpu, one thread",
            {
                "student": path,
                "prompts": len(HELD_OUT_PROMPTS),
                "videos": len(PROMPTS),
                "horizons": HORIZONS,
            },
            limit=1.0,
            **gains,
            measured=results[path],
            real=results[REAL],
        )


if __name__ == "__main__":
    settings.command(main, Config, __doc__, list, groups=None)
