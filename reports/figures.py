"""Hold the results of the tiny world that pages show, and draw the picture of the README."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models.atomic_files import write_atomic
from models.worlds.tiny_judge import TOLERANCE
from models.worlds.tiny_world import FPS, HORIZON
from reports.charts import STYLES, ChartText, Mark
from reports.clips import data_address, png_bytes
from rewards.object_motion import FASTEST_EXCESS, FROZEN, SLOWEST


class HorizonCurve(NamedTuple):
    """Describes a metric over time."""

    key: str
    """Its name in `segment_metrics`."""
    label: str
    best: int
    """Its best value."""
    unit: str
    note: str
    """Meaning, for the reader of a page."""


CURVES = (
    HorizonCurve(
        "validity", "Validity", 1, "share of frames",
        f"Share of frames that show the prompted scene: an RMSE below {TOLERANCE} to its nearest exact rendering, "
        "wherever the sprite, whatever the light. Real videos score 1.",
    ),
    HorizonCurve(
        "exposure_drift", "Exposure drift", 0, "pixel value, 0 to 1",
        "How far a frame's mean brightness is from that of the same video's first segment, up or down alike, in pixel "
        "value (black 0, white 1). Real videos stay below 0.005.",
    ),
    HorizonCurve(
        "dynamic_degree", "Dynamic degree", 1, "share of pairs of frames",
        "Share of pairs of consecutive frames that are valid and move at about the prompted speed: "
        f"{SLOWEST} times as fast or more, and at most {FASTEST_EXCESS} pixels per frame faster. Standing still and "
        "jumping both fail. Real videos score 0.99.",
    ),
    HorizonCurve(
        "frozen_share", "Frozen share", 0, "share of pairs of frames",
        f"Share of pairs, valid or not, that move less than {FROZEN} times as fast as prompted. Real videos stay below "
        "0.02 (a bounce may end where it began).",
    ),
)  # fmt: skip


TONES = {"uniform": 0, "prefix_1": 1, "ode": 2}
"""Number in STYLES of each method of the demo; any other takes 3 or 4."""
_INK = "#1b1f24"
"""Colour of axes and text on a light page."""
PICTURED = 4
"""Videos in the picture of the README: the first ones."""


@dataclass(frozen=True)
class MethodResult:
    """Holds videos [B T 3 H W] in [0, 1] of one method, and their metrics, one number per teacher horizon."""

    name: str
    title: str
    """Shown to the reader, "method: its difference"."""
    metrics: dict[str, list[float]]
    """`evaluation.tiny_metrics.segment_metrics` of all the videos."""
    videos: Tensor
    prompts: list[str]
    by_video: Sequence[dict[str, list[float]]]
    """The same metrics of each video on its own."""

    def __post_init__(self):
        arm, shape = f'arm "{self.name}"', tuple(self.videos.shape)
        if missing := [curve.key for curve in CURVES if curve.key not in self.metrics]:
            raise ValueError(f"{arm} lacks the metrics {', '.join(missing)}")
        lengths = {key: len(values) for key, values in self.metrics.items()}
        if len(set(lengths.values())) > 1 or not self.segments:
            raise ValueError(f"{arm}: every metric needs one number per segment; got {lengths}")
        for key, values in self.metrics.items():
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{arm}: {key} is not finite in every segment: {values}")
        if len(shape) != 5 or shape[2] != 3:
            raise ValueError(f"{arm}: videos must be [B T 3 H W]; got {shape}")
        if not shape[0] == len(self.prompts) == len(self.by_video) or not self.prompts:
            counted = f"{shape[0]} videos, {len(self.prompts)} prompts, {len(self.by_video)} judged"
            raise ValueError(f"{arm}: {counted}; each video needs its own")
        if shape[1] != self.segments * HORIZON:
            raise ValueError(f"{arm}: {shape[1]} frames are not {self.segments} segments of {HORIZON}")
        if not ((self.videos >= 0) & (self.videos <= 1)).all():
            raise ValueError(f"{arm}: videos hold values outside [0, 1]; clamp them")

    @property
    def segments(self) -> int:
        """Return the length of the videos in teacher horizons."""
        return len(self.metrics["validity"])

    @property
    def tone(self) -> int:
        """Return the number of the method's style."""
        return TONES.get(self.name, 3 + sum(self.name.encode()) % 2)


def check_methods(arms: Sequence[MethodResult]) -> None:
    """Raise ValueError for methods that cannot be compared: other prompts, other lengths, the same name."""
    if not arms:
        raise ValueError("a report needs at least one arm; got none")
    for index, arm in enumerate(arms):
        if arm.name in (other.name for other in arms[:index]):
            raise ValueError(f'two arms are called "{arm.name}"; give each its own name')
        if (arm.segments, arm.prompts) != (arms[0].segments, arms[0].prompts):
            raise ValueError(f'arm "{arm.name}" has other prompts or segments than "{arms[0].name}"')


def milestones(segments: int) -> list[int]:
    """Choose the segments to show: 1, 2, 4, 8 and so on, and the last."""
    return sorted({2**k for k in range(segments.bit_length())} | {segments})


def seconds_at(segment: int) -> str:
    """Format the time at which the `segment`-th teacher horizon ends."""
    return f"{segment * HORIZON / FPS:g} s"


def chart_text(curve: HorizonCurve) -> ChartText:
    """Describe the chart of a metric: shares reach from 0 to 1, exposure drift as far as it goes."""
    bounds = None if curve.key == "exposure_drift" else (0.0, 1.0)
    return ChartText(curve.key, curve.label, f"{curve.unit}; {curve.best} is best", bounds, 0.05, curve.note)


def horizon_marks(training_frames: int | None) -> list[Mark]:
    """Mark where the teacher's horizon ends, and where the training rollouts ended, both in latent frames."""
    ends = ((HORIZON, "teacher"), (training_frames, "training"))
    return [Mark(frames / FPS, label) for frames, label in ends if frames is not None]


def percent(share: float) -> str:
    """Format whole percent, but never 0 or 100 for a share that is only close to it."""
    close = 0 < share < 0.005 or 0.995 <= share < 1
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %" if close else f"{100 * share:.0f} %"


def write_picture(path: str | Path, arms: Sequence[MethodResult]) -> None:
    """Write the README's PNG: the first videos of every method next to each other, on a light card."""
    from matplotlib import get_data_path

    check_methods(arms)
    fonts = Path(get_data_path(), "fonts", "ttf")
    bold, plain = (ImageFont.truetype(fonts / f"DejaVuSans{name}.ttf", 26) for name in ("-Bold", ""))
    quiet = STYLES[TONES["ode"]].light
    columns, prompts = milestones(arms[0].segments), arms[0].prompts[:PICTURED]
    edge, gap, margin, between, head, label, foot = 120, 8, 44, 64, 170, 58, 84
    block, row = len(columns) * (edge + gap) - gap, label + edge
    bottom = margin + head + len(prompts) * row
    card = Image.new("RGBA", (2 * margin + len(arms) * (block + between) - between, bottom + foot + margin))
    pen = ImageDraw.Draw(card)
    pen.rounded_rectangle((0, 0, card.width - 1, card.height - 1), 28, "#fbfbfa", "#d4d7dc", 2)
    for index, arm in enumerate(arms):
        left = margin + index * (block + between)
        method, _, law = arm.title.partition(": ")
        pen.text((left, margin), method, STYLES[arm.tone].light, bold)
        pen.text((left, margin + 36), law, quiet, plain)
        for line, prompt in enumerate(prompts):
            pen.text((left, margin + head + line * row + 14), prompt, quiet, plain)
        for column, segment in enumerate(columns):
            x = left + column * (edge + gap)
            middle = x + edge // 2
            pen.text((middle, margin + 112), f"{segment}\u00d7", _INK, bold, "mm")
            pen.text((middle, margin + 146), seconds_at(segment), _INK, plain, "mm")
            for line, video in enumerate(arm.videos[: len(prompts)]):
                frame = frame_image(video[segment * HORIZON - 1]).resize((edge, edge), Image.Resampling.NEAREST)
                card.paste(frame, (x, margin + head + line * row + label - 6))
            share = percent(arm.metrics["validity"][segment - 1])
            pen.text((middle, bottom + 28), share, STYLES[arm.tone].light, bold, "mm")
        pen.text((left, bottom + 54), f"frames valid, all {len(arm.prompts)} videos", quiet, plain)
    write_atomic(Path(path), png_bytes(card))


def frame_image(frame: Tensor) -> Image.Image:
    """Convert a frame [3 H W] in [0, 1], pixel by pixel."""
    return Image.fromarray((rearrange(frame, "c h w -> h w c") * 255).round().to(torch.uint8).cpu().numpy())


def still_address(frame: Tensor) -> str:
    """Encode a frame [3 H W] in [0, 1] as a data: address."""
    return data_address("image/png", png_bytes(frame_image(frame)))
