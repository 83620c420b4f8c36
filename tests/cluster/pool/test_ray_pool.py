"""What a pool on Ray makes of the answers of its processes, and of those that do not come."""

import asyncio

import pytest
import torch
from ray.exceptions import RayError, RayTaskError

from cluster.planning.run_shape import fixed_shape
from cluster.pool.ray_pool import ActorLost, NoNode, RayPool, Superseded
from cluster.run_errors import RunFailed
from cluster.supply.dispatch import Dispatch
from models.errors import ConfigError
from tests.fakes.small_runs import run, small

WORK = fixed_shape(small())


class Handle:
    """An actor's handle, which answers when it is told to."""

    def __init__(self):
        self.answer = asyncio.get_running_loop().create_future()
        self.begin = self.place = self

    def remote(self, *_):
        return self.answer


class RaisingStream:
    """A streaming call whose first item is an exception."""

    def __init__(self, error):
        self.error = error

    def options(self, **_):
        return self

    def remote(self, *_):
        return self

    async def __anext__(self):
        raise self.error


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("asked", ["place", "begin"])
def test_what_a_process_answers_that_has_lost_its_slot_meanwhile_counts_for_nobody(asked, raises, removed):
    async def test():
        pool, handle = RayPool.__new__(RayPool), Handle()
        pool.cluster, pool.actors, pool.relay, pool.work = small().cluster, {1: handle}, None, WORK
        asking = asyncio.create_task(pool.place(1) if asked == "place" else pool.begin(1, None, 1))
        await asyncio.sleep(0)
        if removed:
            pool.actors.pop(1)
        else:
            pool.actors[1] = Handle()
        handle.answer.set_exception(RayError("killed")) if raises else handle.answer.set_result("here")
        with pytest.raises(Superseded):
            await asking

    run(test())


def test_a_process_that_does_not_answer_has_no_node_and_one_that_has_a_node_and_does_not_begin_is_lost():
    async def test():
        pool = RayPool.__new__(RayPool)
        pool.cluster, pool.actors, pool.relay, pool.work = small().cluster, {1: Handle()}, None, WORK
        pool.cluster.start_timeout_s = 0.01
        with pytest.raises(NoNode, match=r"cluster\.start_timeout_s = 0\.01 "):
            await pool.place(1)
        pool.actors[1] = Handle()
        with pytest.raises(ActorLost, match=r"cluster\.start_timeout_s = 0\.01 "):
            await pool.begin(1, None, 1)

    run(test())


@pytest.mark.parametrize("asked", ["begin", "stream"])
@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error\nSearch"), ActorLost),
        (KeyError(1), RayTaskError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0\nhas"), RunFailed),
        (ConfigError("student.model", "tiny", "too large", "take a smaller one"), RunFailed),
    ],
)
def test_a_process_whose_gpu_failed_is_lost_and_one_whose_code_raised_is_not(asked, cause, raised):
    async def first_of(stream):
        async for delivery in stream:
            return delivery

    async def test():
        pool, handle = RayPool.__new__(RayPool), Handle()
        pool.cluster, pool.actors, pool.relay, pool.work = small().cluster, {1: handle}, None, WORK
        error = RayTaskError("windows", "traceback", cause)
        handle.answer.set_exception(error)
        handle.windows = RaisingStream(error)
        with pytest.raises(raised) as caught:
            await (pool.begin(1, None, 1) if asked == "begin" else first_of(pool.stream(1, 1, Dispatch([]))))
        assert raised is not ActorLost or "ECC" in str(caught.value)
        assert raised is not RunFailed or "\n" not in str(caught.value)

    run(test())
