"""What a reward sees: one window of one video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from rewards.flow.optical_flow import Flow

Statistic = TypeVar("Statistic")


@dataclass(frozen=True, eq=False)
class Clip:
    """One window. It begins with the last frame before it, where there is one, so that a cut on the border is seen."""

    prompt: str
    pixels: Tensor
    """[T 3 H W] float32 in [0, 1]."""
    latents: Tensor
    """[F C H W], without the frame before."""
    flow: Flow | None = None
    """Of `pixels`; None where no reward of the run needs it."""
    reference: "Clip | None" = None
    """The same prompt's first seconds, by the same model: what brightness, sharpness and motion are held against."""
    bar: "Sequence[Clip]" = ()
    """Sets the bar of motion in place of the reference: the references of all members, where every member is its own,
    or another model's first seconds. Nobody lowers the bar that it is held to."""
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, statistic: Callable[["Clip"], Statistic]) -> Statistic:
        """`statistic(self)`, computed once: windows share a reference, a composite shares with its factors."""
        if statistic not in self._known:
            self._known[statistic] = statistic(self)
        return self._known[statistic]
