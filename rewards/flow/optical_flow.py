"""Compute optical flow of neighbouring frames, where it is valid, and how much texture it was seen by.

A frame is H x W; flow may be computed on a larger copy of it, h x w, and is then in pixels of that copy.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise

import cv2
import numpy
import torch
from torch import Tensor
from torch.nn import functional

from models.errors import ConfigError

SMALLEST = 12
"""OpenCV's DIS refuses smaller frames."""
_LARGEST_ENLARGED = 1024
"""A larger side takes seconds per pair, and adds no detail."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold where every pixel of a frame is in the next, and back. x (column) comes before y (row)."""

    forward: Tensor
    """[T-1 2 h w], pixels of the h x w frame."""
    backward: Tensor
    """[T-1 2 h w], from the second frame of a pair to its first."""
    texture: Tensor
    """[T-1 h w], `squared_gradient` of a pair's first frame: motion shows only where there is some."""
    invalid: Tensor
    """[T-1 h w] bool: forward and backward flow disagree; occluded, or no motion at all."""

    @classmethod
    def of(cls, forward: Tensor, backward: Tensor, texture: Tensor) -> "Flow":
        """Make the flow of pairs from both directions; see `inconsistent` for `invalid`."""
        return cls(forward, backward, texture, inconsistent(forward, backward))

    def between(self, first: int, last: int) -> "Flow":
        """Select the pairs from frame `first` to frame `last`, both included."""
        return Flow(*(getattr(self, field.name)[first:last] for field in fields(self)))

    def followed_by(self, later: "Flow") -> "Flow":
        """Append the pairs of `later`, which begins with the frame that ends the last pair here."""
        return Flow(*(torch.cat([getattr(self, f.name), getattr(later, f.name)]) for f in fields(self)))


FlowEngine = Callable[[Tensor], Flow]
"""Pixels [T 3 H W] in [0, 1] to the flow of their T - 1 pairs."""


class DisFlow:
    """Compute flow by OpenCV's DIS, preset FAST, on the CPU: 7 ms a pair and direction at 240 x 416. Deterministic."""

    def __init__(self, upsample: int = 1, finest_scale: int = 2):
        """Make the engine; `finest_scale` 2, the preset's, computes at a quarter of the size."""
        # OpenCV would otherwise start a thread per core on top of torch's.
        cv2.setNumThreads(torch.get_num_threads())
        self._upsample = upsample
        self._engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._engine.setFinestScale(finest_scale)

    def __call__(self, pixels: Tensor) -> Flow:
        """Compute the flow of `pixels` [T 3 H W]. Raises ConfigError for frames that are too small for DIS."""
        return self.of_grey(grey_frames(pixels, self._upsample))

    def of_grey(self, grey: numpy.ndarray) -> Flow:
        """Compute the flow of luma `grey` [T h w] uint8, at least 12 x 12."""
        directions = []
        for first, second in ((0, 1), (1, 0)):
            flows = [self._engine.calc(pair[first], pair[second], None) for pair in pairwise(grey)]
            empty = torch.zeros(0, 2, *grey.shape[1:])
            stacked = torch.from_numpy(numpy.stack(flows)).permute(0, 3, 1, 2).contiguous() if flows else empty
            directions.append(stacked)
        return Flow.of(*directions, squared_gradient(torch.from_numpy(grey[:-1])))


def luma(pixels: Tensor) -> Tensor:
    """Compute luma (Rec. 601) [... H W] of `pixels` [... 3 H W]: brightness as the eye weighs the colours."""
    red, green, blue = pixels.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def grey_frames(pixels: Tensor, upsample: int) -> numpy.ndarray:
    """Convert `pixels` [T 3 H W] to luma [T h w] uint8, `upsample` times as large. Raises ConfigError."""
    grey = luma(pixels).cpu()
    size = f"{grey.shape[1]}x{grey.shape[2]}"
    if min(grey.shape[1:]) * upsample < SMALLEST:
        raise ConfigError("reward.upsample", upsample, f"flow needs {SMALLEST}x{SMALLEST} pixels; frames are {size}",
                          "write a larger reward.upsample")  # fmt: skip
    if upsample > 1:
        if max(grey.shape[1:]) * upsample > _LARGEST_ENLARGED:
            raise ConfigError("reward.upsample", upsample, f"frames of {size} pixels would be too large for flow",
                              "write a smaller reward.upsample")  # fmt: skip
        grey = functional.interpolate(grey[:, None], scale_factor=upsample, mode="bicubic", align_corners=False)[:, 0]
    return (grey * 255).round().clamp(0, 255).byte().numpy()


def squared_gradient(grey: Tensor) -> Tensor:
    """Compute the squared gradient [T h w] of luma `grey` [T h w], by central differences."""
    rows, columns = torch.gradient(grey.float(), dim=(1, 2))
    return rows.square() + columns.square()


def displaced(values: Tensor, flow: Tensor) -> Tensor:
    """Read `values` [T C h w] bilinearly at x + `flow` [T 2 h w]; beyond the edge, at the edge."""
    height, width = flow.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (columns.to(flow) + flow[:, 0]) * 2 / max(width - 1, 1) - 1
    y = (rows.to(flow) + flow[:, 1]) * 2 / max(height - 1, 1) - 1
    return functional.grid_sample(values, torch.stack([x, y], -1), padding_mode="border", align_corners=True)


def inconsistent(forward: Tensor, backward: Tensor) -> Tensor:
    """Test [T h w] whether |F + B(x+F)| > 0.5 + 0.01 (|F|^2 + |B(x+F)|^2), for flows [T 2 h w] both ways."""
    back = displaced(backward, forward)
    gap = torch.hypot(*(forward + back).unbind(1))
    return gap > 0.5 + 0.01 * (forward.square().sum(1) + back.square().sum(1))
