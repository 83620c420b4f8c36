"""Draw optical flow over time: direction as hue, speed as saturation."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy
import torch
from matplotlib import pyplot
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

SHOWN = 8
"""Most frames in a strip."""


def flow_colours(flow: Tensor, fastest: float) -> Tensor:
    """Paint `flow` [N 2 h w] as colours [N h w 3] in [0, 1]: hue is direction, white is no motion.

    Flow of `fastest` pixels and more has full colour.
    """
    x, y = flow.unbind(1)
    hue = torch.atan2(y, x) / (2 * torch.pi) % 1
    saturation = (torch.hypot(x, y) / max(fastest, 1e-6)).clamp(max=1)
    hsv = torch.stack([hue, saturation, torch.ones_like(hue)], dim=-1)
    return torch.from_numpy(hsv_to_rgb(hsv.numpy())).float()


def colour_wheel(size: int = 65) -> Tensor:
    """Draw the legend [size size 4]: the colour of every direction, full at the rim, transparent outside."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    colours = flow_colours(torch.stack([x, y])[None], 1.0)[0]
    return torch.cat([colours, (torch.hypot(x, y) <= 1).float()[..., None]], dim=-1)


@dataclass(frozen=True)
class Strip:
    """Holds a video's flow over time."""

    frames: list[Tensor]
    """[3 H W] in [0, 1], at equal distances."""
    flow: list[Tensor]
    """[2 h w] from each of these frames to the next of the video."""
    motion: list[float]
    """Motion of all pairs, in pixels."""
    borders: list[int]
    """Frames at which windows begin."""


def draw_strip(path: Path, title: str, strip: Strip) -> None:
    """Write `strip` as a PNG: frames, the flow out of them, and motion over time."""
    count, flow = len(strip.frames), torch.stack(strip.flow)
    figure, axes = pyplot.subplot_mosaic(
        [[f"frame {i}" for i in range(count)], [f"flow {i}" for i in range(count)], ["motion"] * count],
        figsize=(2 * count, 5), layout="constrained",
    )  # fmt: skip
    fastest = float(numpy.percentile(torch.hypot(*flow.unbind(1)).numpy(), 99))
    for i, (frame, colours) in enumerate(zip(strip.frames, flow_colours(flow, fastest), strict=True)):
        axes[f"frame {i}"].imshow(frame.permute(1, 2, 0).numpy())
        axes[f"flow {i}"].imshow(colours.numpy())
        axes[f"frame {i}"].axis("off")
        axes[f"flow {i}"].axis("off")
    plot, pairs = axes["motion"], len(strip.motion)
    legend = plot.inset_axes((0.94, 0.55, 0.05, 0.45))
    legend.imshow(colour_wheel().numpy())
    legend.axis("off")
    legend.set_title(f"{fastest:.2g} px", fontsize=7)
    plot.plot(numpy.arange(1, pairs + 1), strip.motion, linewidth=1)
    for border in strip.borders:
        plot.axvline(border, color="0.85", linewidth=0.7, zorder=0)
    plot.set(xlabel="frame", ylabel="motion [px]", ylim=(0, None), xlim=(0, pairs + 1))
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
