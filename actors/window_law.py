"""Draw window starts: the part of training that Self-Forcing++ changes.

A law draws one of the block-aligned starts of a rollout. Uniform is the paper's (Eq. 2, i ~ Unif{1..N-K+1}); the others
are its ablations. Starts are drawn when a rollout is dispatched, never when windows arrive, which favours early ones.
"""

import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy

from models.errors import ConfigError

WindowLaw = Callable[[Sequence[int], int, int, numpy.random.Generator], int]
"""Draws a start, in latent frames, by (starts, window_frames, horizon_frames, generator); `starts` ascend.

A law of the user's own is such a callable.
"""


@dataclass(frozen=True)
class Uniform:
    """Draws every start equally often. Other laws change `index`, or the starts among which it draws."""

    def __call__(
        self, starts: Sequence[int], window_frames: int, horizon_frames: int, generator: numpy.random.Generator
    ) -> int:
        return starts[self.index(len(starts), generator)]

    def index(self, count: int, generator: numpy.random.Generator) -> int:
        """Draw the place of a start among `count` of them."""
        return int(generator.integers(count))


@dataclass(frozen=True)
class Beta(Uniform):
    """Draws starts as Beta(a, b) over the rollout: b > a favours its beginning."""

    a: float
    b: float

    def index(self, count: int, generator: numpy.random.Generator) -> int:
        return min(int(generator.beta(self.a, self.b) * count), count - 1)


@dataclass(frozen=True)
class Prefix(Uniform):
    """Draws windows that end within the first `horizons` teacher horizons: 1 is Self-Forcing, 2 the 10 s ablation."""

    horizons: float

    def __call__(
        self, starts: Sequence[int], window_frames: int, horizon_frames: int, generator: numpy.random.Generator
    ) -> int:
        inside = [start for start in starts if start + window_frames <= self.horizons * horizon_frames]
        if not inside:
            raise ConfigError(
                "window.law", f"prefix({self.horizons:g})", f"no window of {window_frames} frames ends within "
                f"{self.horizons:g} horizons of {horizon_frames} frames", "write a longer prefix, fewer window.frames",
            )  # fmt: skip
        return super().__call__(inside, window_frames, horizon_frames, generator)


@dataclass(frozen=True)
class Stratum(Uniform):
    """Draws uniformly in one of `parts` equal parts of the starts. A start on a border belongs to each by its share."""

    part: int
    parts: int

    def index(self, count: int, generator: numpy.random.Generator) -> int:
        return min(int((self.part + generator.random()) / self.parts * count), count - 1)


@dataclass(frozen=True)
class Stratified(Uniform):
    """Draws each window of one rollout from a part of its own (see `laws_of_rollout`): uniform, and spread."""


@dataclass(frozen=True)
class Weighted(Uniform):
    """Draws a part of the starts in proportion to its weight, and a start in it. The parts have equal length.

    Places that are measured to fail more can be drawn more: 1 - validity, position by position.
    """

    weights: tuple[float, ...]

    def index(self, count: int, generator: numpy.random.Generator) -> int:
        shares = numpy.array(self.weights)
        part = int(generator.choice(len(shares), p=shares / shares.sum()))
        return Stratum(part, len(shares)).index(count, generator)


@dataclass(frozen=True)
class StartShares(Uniform):
    """Draws each start with its own probability."""

    shares: tuple[float, ...]

    def index(self, count: int, generator: numpy.random.Generator) -> int:
        return int(generator.choice(count, p=self.shares))


@dataclass(frozen=True)
class Priority(Uniform):
    """Draws a share `even` of the windows uniformly, the others in proportion to the drift measured at their place.

    Uniform until something was measured. In one process starts are a function of the seed, over restarts too; on Ray
    what has been measured by a dispatch, and in which order, depends on which actor was quicker.
    """

    even: float

    def after(self, drift: numpy.ndarray) -> WindowLaw:
        """Return the law for starts at which videos drift by `drift` [starts]."""
        if not drift.sum():
            return Uniform()
        shares = self.even / len(drift) + (1 - self.even) * drift / drift.sum()
        return StartShares(tuple(shares / shares.sum()))


_LAWS = {
    "uniform": Uniform, "stratified": Stratified, "beta": Beta, "prefix": Prefix, "weighted": Weighted,
    "priority": Priority,
}  # fmt: skip
_FORMS = "write uniform, stratified, beta(a, b), prefix(h), weighted(w, ...), priority(share) or a dotted path"


def parse_law(text: str) -> WindowLaw:
    """Read `window.law`: a shipped law with its numbers, or the dotted path of a callable. Raises ConfigError."""
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:\(([^()]*)\))?\s*", text)
    if match is None:
        raise ConfigError("window.law", text, "this is neither a law nor a dotted path", _FORMS)
    name, numbers = match[1], [part for part in (match[2] or "").split(",") if part.strip()]
    if name in _LAWS:
        law = _LAWS[name]
        count = max(len(numbers), 1) if law is Weighted else len(fields(law))
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if len(values) != count or not all(math.isfinite(value) for value in values):
            raise ConfigError("window.law", text, f"this law takes {count} finite number{'s' if count > 1 else ''}"
                              if count else "this law takes no numbers", _FORMS)  # fmt: skip
        if law is Weighted:
            positive = min(values) >= 0 and any(values)
        else:
            positive = all(value > 0 for value in values) and (law is not Priority or values[0] <= 1)
        if not positive:
            raise ConfigError(
                "window.law", text, "these numbers make no distribution",
                "write numbers above 0, of weighted() at least one, of priority() at most 1",
            )  # fmt: skip
        return Weighted(tuple(values)) if law is Weighted else law(*values)
    module, _, attribute = name.rpartition(".")
    if not module or numbers:
        raise ConfigError("window.law", text, "no law has this name, and a dotted path takes no numbers", _FORMS)
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError("window.law", text, f"cannot be imported ({error})", "correct the dotted path") from error
    if not callable(loaded):
        raise ConfigError("window.law", text, f"this is {loaded!r}, not a callable", "name a law")
    return loaded


def laws_of_rollout(law: WindowLaw, windows: int, generator: numpy.random.Generator) -> list[WindowLaw]:
    """Return the law of each window of one rollout: `law` itself, or its parts in random order.

    A fixed order would tie parts to roles, which alternate by the window's number, too.
    """
    if not isinstance(law, Stratified):
        return [law] * windows
    return [Stratum(int(part), windows) for part in generator.permutation(windows)]


def window_starts(frames: int, window_frames: int, block_frames: int, earliest: int = 0) -> range:
    """Return all block-aligned starts of a window in a rollout of `frames` latent frames, from `earliest` on."""
    return range(earliest, frames - window_frames + 1, block_frames)


def draw_start(
    law: WindowLaw, name: str, starts: range, frames: int, horizon: int, generator: numpy.random.Generator
) -> int:
    """Draw where a window of `frames` starts, or a fork. Raises ConfigError when the law draws none of `starts`."""
    start = int(law(starts, frames, horizon, generator))
    if start not in starts:
        raise ConfigError("window.law", name, f"the law drew start {start}, none of {starts}", "correct the law")
    return start
