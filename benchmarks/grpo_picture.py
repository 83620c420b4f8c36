"""Draw the effect of stage grpo, one row per student: consecutive frames, and how far the sprite moves between them.

python -m benchmarks.grpo_picture out=docs/grpo.png 'before=student.safetensors' 'with DMD=student.safetensors' [...]
One row per student, all with the same prompts and noise: consecutive frames after 7 teacher horizons, the sprite's
displacement from frame to frame, and the numbers of grpo_gain. Real videos stand in the last row.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import settings
from benchmarks.command import NoKeys
from benchmarks.grpo_gain import SHIPPED, measured, real_videos, videos_of
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.wan.network import Wan
from models.worlds.tiny_judge import judge
from models.worlds.tiny_prompts import HELD_OUT_PROMPTS
from models.worlds.tiny_world import to_pixels
from rewards.object_motion import displacement, prompted_speed

matplotlib.use("Agg")

FIRST, FRAMES = 84, 12
SHOWN = (1, 4, 40)
"""Indices of the held-out prompts that are shown."""


def draw(rows: dict[str, tuple[Tensor, dict[str, float]]], path: Path) -> None:
    """Draw `rows`, by label: latents [B F C H W] and their measured numbers."""
    from matplotlib import pyplot

    prompts = [HELD_OUT_PROMPTS[i] for i in SHOWN]
    figure, axes = pyplot.subplots(len(rows), 2, figsize=(15, 2.6 * len(rows)), width_ratios=(2, 1), squeeze=False)
    for (label, (latents, scores)), (strip, curve) in zip(rows.items(), axes, strict=True):
        shown = to_pixels(latents[list(SHOWN)])
        lines = [torch.cat(list(video[FIRST : FIRST + FRAMES]), dim=2) for video in shown]
        strip.imshow(torch.cat(lines, dim=1).permute(1, 2, 0), interpolation="nearest")
        strip.set_axis_off()
        strip.set_title(label, loc="left", fontsize=12, fontweight="bold")
        reward, degree, validity = (scores[name] for name in ("reward", "dynamic_degree", "validity"))
        numbers = f"reward {reward:.3f}, dynamic degree {degree:.2f}, validity {validity:.3f}"
        strip.set_title(numbers, loc="right", fontsize=10)
        moved = displacement(judge(shown, prompts).position) / prompted_speed(prompts)[:, None]
        for line in moved[:, FIRST - 36 : FIRST + FRAMES - 1]:
            curve.plot(range(FIRST - 36, FIRST + FRAMES - 1), line, linewidth=1)
        curve.set_ylim(0, 3)
        curve.axhline(1, color="grey", linewidth=0.5)
        curve.set_ylabel("speed / prompted", fontsize=8)
    axes[-1][1].set_xlabel("frame")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if "out" not in given or len(given) < 2 or not all(given.values()):
        raise ConfigError(
            "out", given.get("out"), "picture or students are missing", "write out=FILE.png LABEL=STUDENT.safetensors"
        )
    out, config = Path(given.pop("out")), settings.load([])
    if out.suffix != ".png":
        raise ConfigError("out", out, "no picture of a kind that is written", "end it in .png")
    if not out.parent.is_dir():
        raise ConfigError("out", out, "its folder does not exist", "make the folder, or change the path")
    for label, path in given.items():  # a wrong one is found before minutes are spent
        load_weights(Wan(config.student.wan), Path(path), label)
    videos = {label: videos_of(Path(path), config) for label, path in given.items()} | {"real": real_videos(config)}
    began = videos_of(settings.ROOT / SHIPPED, config)
    draw({label: (latents, measured(latents, config, began)) for label, latents in videos.items()}, out)
    print(out)


if __name__ == "__main__":
    settings.command(main, NoKeys, __doc__, list)
