"""A coordinator that only holds weights: the newest version, for the actors that ask for one."""

from cluster.weights.object_store import WeightStore


class WeightCoordinator:
    """The two calls of a coordinator that move weights; make an actor of it with `ray.remote`."""

    def __init__(self):
        self.store, self.known = WeightStore(), None

    async def newest(self):
        """Return the number of the last version that was offered."""
        return self.known

    async def begin_again(self):
        """Hold no version, for the next test: a new process would take seconds to import torch."""
        self.store = WeightStore()

    async def publish(self, version, update, source):
        self.known = version
        await self.store.collect(version, source)

    async def newer(self, epoch, than, wait_s, slot):
        return await self.store.newer(than, wait_s)
