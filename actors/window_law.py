"""Where windows start: the distribution that Self-Forcing++ changes, as a value.

A law draws one of the block-aligned starts of a rollout. Uniform is the paper's (Eq. 2, i ~ Unif{1..N-K+1}); the others
are its ablations. Starts are drawn when a rollout is dispatched, never when windows arrive.
"""

import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy


class WindowLaw(Protocol):
    """Draws a start, in latent frames, out of `starts` (ascending)."""

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int: ...


@dataclass(frozen=True)
class Uniform:
    """Every start equally often."""

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        return starts[generator.integers(len(starts))]


@dataclass(frozen=True)
class Beta:
    """Starts spread as Beta(a, b) over the rollout: b > a favours the beginning."""

    a: float
    b: float

    def __post_init__(self):
        if self.a <= 0 or self.b <= 0:
            raise ValueError(f"beta({self.a}, {self.b}): both numbers must be above 0; change window.law")

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        return starts[min(int(generator.beta(self.a, self.b) * len(starts)), len(starts) - 1)]


@dataclass(frozen=True)
class Prefix:
    """Windows that end within the first `horizons` teacher horizons: 1 is Self-Forcing, 2 the 10 s ablation."""

    horizons: float

    def __post_init__(self):
        if self.horizons <= 0:
            raise ValueError(f"prefix({self.horizons}): the prefix must be longer than 0; change window.law")

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        inside = [start for start in starts if start + window_frames <= self.horizons * horizon_frames]
        if not inside:
            raise ValueError(
                f"no window of {window_frames} frames ends within {self.horizons} horizons of {horizon_frames} frames; "
                "change window.law or window.frames"
            )
        return inside[generator.integers(len(inside))]


@dataclass(frozen=True)
class Stratum(Uniform):
    """Uniform in one of `parts` equal parts of the starts; a start on a border belongs to each by its share."""

    part: int
    parts: int

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        place = (self.part + generator.random()) / self.parts
        return starts[min(int(place * len(starts)), len(starts) - 1)]


@dataclass(frozen=True)
class Stratified(Uniform):
    """Uniform, and spread: of the windows of one rollout each comes from a part of its own (see `laws_of_rollout`)."""


@dataclass(frozen=True)
class Weighted:
    """The starts are cut into equal parts, one for each weight, and a part is drawn in proportion to its weight.

    What is measured to fail more can be drawn more: 1 - validity, position by position.
    """

    weights: tuple[float, ...]

    def __post_init__(self):
        if not all(weight >= 0 for weight in self.weights) or not any(self.weights):
            raise ValueError(
                f"weighted{self.weights}: weights must be 0 or above, and one of them above 0; change window.law"
            )

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        shares = numpy.array(self.weights)
        part = int(generator.choice(len(shares), p=shares / shares.sum()))
        return Stratum(part, len(shares))(starts, window_frames, horizon_frames, generator)


@dataclass(frozen=True)
class Shares:
    """Each start as often as its share says."""

    shares: tuple[float, ...]

    def __call__(
        self,
        starts: Sequence[int],
        window_frames: int,
        horizon_frames: int,
        generator: numpy.random.Generator,
    ) -> int:
        return starts[int(generator.choice(len(starts), p=self.shares))]


@dataclass(frozen=True)
class Priority(Uniform):
    """A share `even` of the windows uniform, the others in proportion to how far videos were seen to stray there.

    Uniform until something was measured. In one process starts are a function of the seed, over restarts too; on Ray
    what has been measured by a dispatch, and in which order, depends on which actor was quicker.
    """

    even: float

    def __post_init__(self):
        if not 0 < self.even <= 1:
            raise ValueError(
                f"priority({self.even}): the share of even windows must be above 0, and at most 1; change window.law"
            )

    def after(self, drift: numpy.ndarray) -> WindowLaw:
        """The law once it is known how far each start has `drift`."""
        if not drift.sum():
            return Uniform()
        shares = self.even / len(drift) + (1 - self.even) * drift / drift.sum()
        return Shares(tuple(shares / shares.sum()))


_LAWS = {"priority": Priority, "uniform": Uniform, "beta": Beta, "prefix": Prefix, "stratified": Stratified}


def parse_law(text: str) -> WindowLaw:
    """The law that `window.law` names: a known one with its numbers, or the dotted path of a callable."""
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:\(([^()]*)\))?\s*", text)
    if match is None:
        raise ValueError(f'window.law="{text}" cannot be read; write uniform, beta(1, 4), prefix(1) or a dotted path')
    name, numbers = match[1], [part for part in (match[2] or "").split(",") if part.strip()]
    if name not in (*_LAWS, "weighted"):
        return _load(name, numbers, text)
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise ValueError(f'window.law="{text}" needs numbers, as in beta(1, 4)') from error
    if name == "weighted":
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f'window.law="{text}" needs finite weights, as in weighted(1, 2, 4)')
        return Weighted(tuple(values))
    law = _LAWS[name]
    if len(values) != len(fields(law)) or not all(math.isfinite(value) for value in values):
        raise ValueError(f'window.law="{text}" needs {len(fields(law))} finite numbers, as in uniform or beta(1, 4)')
    return law(*values)


def _load(path: str, numbers: list[str], text: str) -> WindowLaw:
    module, _, attribute = path.rpartition(".")
    if not module or numbers:
        raise ValueError(
            f'window.law="{text}" is unknown; choose uniform, stratified, beta(a, b), prefix(h), weighted(w, ...), '
            "priority(share), or a dotted path without numbers"
        )
    try:
        law = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'window.law="{text}" cannot be imported ({error}); check the dotted path') from error
    if not callable(law):
        raise ValueError(f'window.law="{text}" names {law!r}, which cannot be called; name a law')
    return law


def laws_of_rollout(law: WindowLaw, windows: int, generator: numpy.random.Generator) -> list[WindowLaw]:
    """The law of each window of one rollout: `law` itself, or its parts in an order that is drawn.

    An order that is not drawn would tie parts to roles, which alternate by the window's number, too.
    """
    if not isinstance(law, Stratified):
        return [law] * windows
    return [Stratum(int(part), windows) for part in generator.permutation(windows)]


def window_starts(frames: int, window_frames: int, block_frames: int, earliest: int = 0) -> range:
    """All block-aligned starts of a window in a rollout of `frames`, from frame `earliest` on."""
    return range(earliest, frames - window_frames + 1, block_frames)


def draw_start(
    law: WindowLaw, name: str, starts: range, frames: int, horizon: int, generator: numpy.random.Generator
) -> int:
    """Where a window of `frames`, or a fork, starts. Raises ValueError when the law draws another than `starts`."""
    start = int(law(starts, frames, horizon, generator))
    if start not in starts:
        raise ValueError(f"window.law={name} drew start {start}, none of {starts}; change the law")
    return start
