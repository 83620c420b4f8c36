"""What a pool on Ray makes of the answers of its processes, and of those that do not come."""

import asyncio

import pytest
from ray.exceptions import RayError

from cluster.pool.ray_pool import ActorLost, NoNode, RayPool, Superseded
from tests.fakes.small_runs import run, small


class Handle:
    """An actor's handle, which answers when it is told to."""

    def __init__(self):
        self.answer = asyncio.get_running_loop().create_future()
        self.begin = self.place = self

    def remote(self, *_):
        return self.answer


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("asked", ["place", "begin"])
def test_what_a_process_answers_that_has_lost_its_slot_meanwhile_counts_for_nobody(asked, raises, removed):
    async def test():
        pool, handle = RayPool.__new__(RayPool), Handle()
        pool.cluster, pool.actors, pool.relay = small().cluster, {1: handle}, None
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
        pool.cluster, pool.actors, pool.relay = small().cluster, {1: Handle()}, None
        pool.cluster.start_timeout_s = 0.01
        with pytest.raises(NoNode, match=r"cluster\.start_timeout_s = 0\.01 "):
            await pool.place(1)
        pool.actors[1] = Handle()
        with pytest.raises(ActorLost, match=r"cluster\.start_timeout_s = 0\.01 "):
            await pool.begin(1, None, 1)

    run(test())
