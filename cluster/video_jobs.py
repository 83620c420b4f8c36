"""Run a call for each item of a list: in this process, or in processes of Ray, with progress and time left."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.cluster_config import ClusterConfig
from cluster.runs.display import Display
from models.errors import StopsRun

T = TypeVar("T")


def run_each(
    work: Callable[[T], Any],
    items: Sequence[T],
    title: str,
    workers: int = 1,
    gpus: float = 0.0,
    address: str | None = None,
    timeout_s: float = 3600.0,
) -> Iterator[tuple[T, Any]]:
    """Yield every item with its result, or with the exception that says why it has none, as they are done.

    One worker is this process, where only a StopsRun belongs to its item; more are processes of Ray, at `address` or
    started here, with `gpus` each, and an item may take `timeout_s`. Raises CannotStart.
    """
    with Display() as display:
        for done, outcome in enumerate(_outcomes(work, items, workers, gpus, address, timeout_s), 1):
            display(title, done, len(items), "")
            yield outcome


def _outcomes(
    work: Callable[[T], Any], items: Sequence[T], workers: int, gpus: float, address: str | None, timeout_s: float
) -> Iterator[tuple[T, Any]]:
    if workers > 1 and items:
        settle_environment(ClusterConfig(address=address))
        from cluster.pool.video_workers import map_on_ray  # only now: ray reads its environment when imported

        yield from map_on_ray(work, items, workers, gpus, address, timeout_s)
        return
    for item in items:
        try:
            yield item, work(item)
        except StopsRun as error:
            yield item, error
