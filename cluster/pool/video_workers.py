"""Run independent calls in processes of Ray, one for each item; a lost process is replaced, a slow one given up."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.bootstrap.nodes import RunNeeds
from cluster.bootstrap.ray_session import connected
from cluster.config.cluster_config import ClusterConfig

T = TypeVar("T")
_STORE_BYTES = 128 * 2**20
_RETRIES = 2
"""Further tries of an item whose process was lost."""
_POLL_S = 1.0


class ProgressBoard:
    """Keeps how far each item is, in a process that needs no core."""

    def __init__(self):
        self.frames: dict[int, tuple[int, int]] = {}

    def note(self, index: int, done: int, frames: int) -> None:
        """Take the frames of an item that are done, and how many it has."""
        self.frames[index] = done, frames

    def take(self) -> dict[int, tuple[int, int]]:
        """Return what came in since the last call."""
        taken, self.frames = self.frames, {}
        return taken


def map_on_ray(
    work: Callable[[T, Callable[[int, int], None]], Any], items: Sequence[T], report: Callable[[int, int, int], None],
    workers: int, gpus: float, address: str | None, timeout_s: float,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """Yield (index, result) of items as they are done, `workers` at the same time; the result may be the exception.

    A call that raises, whose process is lost three times, or that takes longer than `timeout_s` gives its exception.
    `work` must give the same result however often it runs; each process has `gpus`. `report` takes the index of an
    item under way, its frames done and in all, about once a second. Raises CannotStart.
    """
    needs = RunNeeds(ClusterConfig(address=address), [], [], "", None, _STORE_BYTES)
    with connected(needs, workers):
        board = ray.remote(num_cpus=0, max_restarts=-1)(ProgressBoard).remote()
        call = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(_noting)
        waiting, running = list(reversed(range(len(items)))), {}
        while waiting or running:
            while waiting and len(running) < workers:
                index = waiting.pop()
                running[call.remote(work, items[index], index, board)] = (index, time.monotonic() + timeout_s)
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            for reference in done:
                index, _ = running.pop(reference)
                yield index, _outcome(reference)
            for reference, (index, deadline) in list(running.items()):
                if time.monotonic() > deadline:
                    ray.cancel(reference, force=True)
                    del running[reference]
                    yield index, TimeoutError(f"took longer than timeout_s={timeout_s:g} s")
            under_way = {index for index, _ in running.values()}
            try:
                notes = ray.get(board.take.remote(), timeout=_POLL_S)
            except RayError:  # it is being restarted; no result depends on it
                continue
            for index, (frames, of) in notes.items():
                if index in under_way:
                    report(index, frames, of)


def _noting(work: Callable[[T, Callable[[int, int], None]], Any], item: T, index: int, board: Any) -> Any:
    """Call `work` in a process of Ray, with its progress on the board."""
    return work(item, lambda done, frames: board.note.remote(index, done, frames))


def _outcome(reference: ray.ObjectRef) -> Any:
    """Return the result of a finished call, or its exception."""
    try:
        return ray.get(reference, timeout=_POLL_S)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
