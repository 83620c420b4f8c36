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


def map_on_ray(
    work: Callable[[T], Any], items: Sequence[T], workers: int, address: str | None, timeout_s: float
) -> Iterator[tuple[T, Any]]:
    """Yield (item, result) as items are done, `workers` at the same time; the result may be the exception.

    A call that raises, whose process is lost three times, or that takes longer than `timeout_s` gives its exception.
    `work` must give the same result however often it runs. Raises CannotStart.
    """
    needs = RunNeeds(ClusterConfig(address=address), [], [], "", None, _STORE_BYTES)
    with connected(needs, workers):
        call = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
        waiting, running = list(reversed(items)), {}
        while waiting or running:
            while waiting and len(running) < workers:
                item = waiting.pop()
                running[call.remote(item)] = (item, time.monotonic() + timeout_s)
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            for reference in done:
                item, _ = running.pop(reference)
                yield item, _outcome(reference)
            for reference, (item, deadline) in list(running.items()):
                if time.monotonic() > deadline:
                    ray.cancel(reference, force=True)
                    del running[reference]
                    yield item, TimeoutError(f"took longer than timeout_s={timeout_s:g} s")


def _outcome(reference: ray.ObjectRef) -> Any:
    """Return the result of a finished call, or its exception."""
    try:
        return ray.get(reference, timeout=_POLL_S)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
