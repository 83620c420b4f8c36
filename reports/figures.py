"""Draw the methods of a report: their frames, their curves over time, and the picture of the README."""

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models.atomic_files import write_atomic
from models.worlds.tiny_world import FPS, HORIZON


class Curve(NamedTuple):
    """Names a metric over time: its key in `segment_metrics`, its label, and its best value."""

    key: str
    label: str
    best: int


CURVES = (
    Curve("validity", "Validity", 1),
    Curve("exposure_drift", "Exposure drift", 0),
    Curve("dynamic_degree", "Dynamic degree", 1),
    Curve("frozen_share", "Frozen share", 0),
)


class Style(NamedTuple):
    """Holds colours and line of a method in charts, legends and tables, distinct without colour, too."""

    light: str
    """Colour on a light page."""
    dark: str
    """Colour on a dark page."""
    dashes: Any
    """Line style, as matplotlib takes it."""
    marker: str
    legend: str
    """The dashes again, as `stroke-dasharray` of SVG."""


STYLES = (
    Style("#0b62b8", "#62b0ff", "-", "o", "none"),
    Style("#c2410c", "#ff9a66", "--", "s", "8 4"),
    Style("#5c636e", "#a2a9b4", ":", "^", "3 3"),
    Style("#7a3fb0", "#c79bf2", "-.", "D", "10 4 2 4"),
    Style("#1f7a4d", "#6fcf9b", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "v", "10 2 2 2 2 2"),
    Style("#9a6a00", "#e0b252", "-", "P", "none"),
    Style("#b3296f", "#f28bbb", "--", "X", "8 4"),
    Style("#0f7c86", "#6cc9d1", ":", "*", "3 3"),
)
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
    """`evaluation.metrics.segment_metrics` of all the videos."""
    videos: Tensor
    prompts: list[str]

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
        if shape[0] != len(self.prompts) or not self.prompts:
            raise ValueError(f"{arm}: {shape[0]} videos, {len(self.prompts)} prompts; each video needs its own")
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


def percent(share: float) -> str:
    """Format whole percent, but never 0 or 100 for a share that is only close to it."""
    close = 0 < share < 0.005 or 0.995 <= share < 1
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %" if close else f"{100 * share:.0f} %"


class ChartLine(NamedTuple):
    """Holds a metric by teacher horizon, the number of its style, and the edges of the band around it."""

    values: Sequence[float]
    tone: int
    band: tuple[Sequence[float], Sequence[float]] | None = None


def line_chart(curve: Curve, lines: Sequence[ChartLine], training_frames: int | None) -> str:
    """Draw lines over time as SVG in the colours of the page, so that it follows light and dark.

    Dotted verticals mark the teacher's horizon and `training_frames`, both in latent frames.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    segments, horizon = len(lines[0].values), HORIZON / FPS
    options = {"svg.fonttype": "none", "svg.hashsalt": curve.key, "font.size": 10, "axes.edgecolor": _INK}
    options |= {"text.color": _INK, "xtick.color": _INK, "ytick.color": _INK}
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(5.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            style = STYLES[line.tone]
            times = [horizon * segment for segment in range(1, segments + 1)]
            looks = {"color": style.light, "linestyle": style.dashes, "marker": style.marker}
            axes.plot(times, line.values, linewidth=2, markersize=4.5, clip_on=False, **looks)
            if line.band is not None:
                axes.fill_between(times, *line.band, color=style.light, alpha=0.14, linewidth=0)
        for frames, text in ((HORIZON, "teacher"), (training_frames, "training")):
            if frames is not None and frames <= segments * HORIZON:
                axes.axvline(frames / FPS, color=_INK, linewidth=1, linestyle=(0, (1, 2)))
                axes.text(frames / FPS, 1.03, f" {text}", transform=axes.get_xaxis_transform(), fontsize=9)
        highest = max(max(line.values if line.band is None else line.band[1]) for line in lines)
        axes.set_ylim(0, max(0.05, 1.1 * highest) if curve.key == "exposure_drift" else 1.03)
        axes.set_xlim(0, horizon * segments)
        ticks = [segment for segment in milestones(segments) if segment >= segments / 8]
        axes.set_xticks([horizon * tick for tick in ticks], [seconds_at(tick) for tick in ticks])
        for tick in ticks:
            place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
            axes.text(horizon * tick, -0.16, f"{tick}\u00d7", **place)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
        buffer = StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = re.sub(r'\s+(xmlns(:xlink)?|(?<=<svg )(width|height))="[^"]*"', "", svg[svg.index("<svg") :])
    for tone, style in enumerate(STYLES):
        svg = svg.replace(style.light, f"var(--method-{tone})")
    return svg.replace(_INK, "currentColor")


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


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_address(frame: Tensor, scale: int = 1) -> str:
    """Encode a frame [3 H W], enlarged `scale` times by nearest neighbour, as a data: address."""
    small = frame_image(frame)
    large = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    return "data:image/png;base64," + base64.b64encode(png_bytes(large)).decode()
