"""Run a call for each item of a list: in this process, or in processes of Ray, with progress and time left."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from cluster.bootstrap.ray_environment import check_temporary_folder, cluster_address, settle_environment
from cluster.config.cluster_config import ClusterConfig
from cluster.runs.display import Display
from models.errors import StopsRun

T = TypeVar("T")
Report = Callable[[int, int], None]
"""Takes how many frames of an item are done, and how many it has; 0 where that is not known."""

_UNFINISHED = 0.99
"""Largest part of an item that still lacks its outcome: of a whole one nothing more would be shown."""


class FrameCount:
    """Counts items and the frames of those under way, and estimates the time left from both."""

    def __init__(self, items: int):
        self.items, self.ended = items, 0
        self.first: tuple[float, int] | None = None
        """Moment and frames of the first report: what came before, as Ray's start, says nothing of the pace."""
        self.under_way: dict[int, tuple[int, int]] = {}
        """Frames done and in all, by the item's place in the list."""
        self.lengths: dict[int, int] = {}
        """Frames of each item that has reported any; an item judged earlier ends without a report."""
        self.ended_frames = 0

    def note(self, index: int, done: int, frames: int) -> None:
        """Note how far an item is."""
        self.first = self.first or (time.monotonic(), done)
        self.under_way[index] = done, frames
        self.lengths[index] = max(done, frames)

    def end(self, index: int) -> None:
        """Note that an item has its outcome."""
        self.ended += 1
        if self.under_way.pop(index, None) is not None:
            self.ended_frames += self.lengths[index]

    def shown(self) -> tuple[float, str, float | None]:
        """Return the items done, parts included, a line about those under way, and the seconds left, None if unknown.

        Items that have not begun are taken for as long as the mean of those that have reported.
        """
        parts = sum(min(_UNFINISHED, done / frames) for done, frames in self.under_way.values() if frames)
        done = sum(done for done, _ in self.under_way.values())
        of = sum(frames for _, frames in self.under_way.values())
        line = (f"{done} of {of} frames" if of else f"{done} frames") if self.under_way else ""
        began_s, before = self.first or (0.0, 0)
        counted, left_s = done + self.ended_frames - before, None
        if counted > 0:
            waiting = self.items - self.ended - len(self.under_way)
            mean = sum(self.lengths.values()) / len(self.lengths)
            left = max(0, of - done) + waiting * mean
            left_s = (time.monotonic() - began_s) / counted * left
        return self.ended + parts, line, left_s


def run_each(
    work: Callable[[T, Report], Any],
    items: Sequence[T],
    title: str,
    workers: int = 1,
    gpus: float = 0.0,
    address: str | None = None,
    timeout_s: float = 3600.0,
) -> Iterator[tuple[T, Any]]:
    """Yield every item with its result, or with the exception that says why it has none, as they are done.

    `work` takes an item and a call for its progress. One worker is this process, where only a StopsRun belongs to its
    item; more are processes of Ray, at `address` or started here, with `gpus` each, and an item may take `timeout_s`.
    Raises CannotStart, and ConfigError for a temporary folder that Ray cannot use.
    """
    count = FrameCount(len(items))
    with Display() as display:

        def report(index: int, done: int, frames: int) -> None:
            count.note(index, done, frames)
            step, line, left_s = count.shown()
            display(title, step, len(items), line, left_s)

        for index, outcome in _outcomes(work, items, report, workers, gpus, address, timeout_s):
            count.end(index)
            step, line, left_s = count.shown()
            display(title, step, len(items), line, left_s)
            yield items[index], outcome


def _outcomes(
    work: Callable[[T, Report], Any], items: Sequence[T], report: Callable[[int, int, int], None],
    workers: int, gpus: float, address: str | None, timeout_s: float,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """Yield the place of each item in the list, and its outcome."""
    if workers > 1 and items:
        cluster = ClusterConfig(address=address)
        if cluster_address(cluster) is None:
            check_temporary_folder()
        settle_environment(cluster)
        from cluster.pool.video_workers import map_on_ray  # only now: ray reads its environment when imported

        yield from map_on_ray(work, items, report, workers, gpus, address, timeout_s)
        return
    for index, item in enumerate(items):
        try:
            yield index, work(item, partial(report, index))
        except StopsRun as error:
            yield index, error
