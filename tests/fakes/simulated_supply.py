"""A simulated run: no network, no process, any order of events."""

from dataclasses import replace

import msgpack

from actors.drift_tracker import DriftMeter
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.supply.supply_state import from_checkpoint, to_checkpoint
from cluster.supply.wire import LOST, BadWindow, open_item, seal
from models.records import CRITIC, STUDENT, MadeBlock
from tests.fakes.small_runs import pretended


def sealed(item, drift=None):
    """The item's header with its payload."""
    header, payload = seal(item, drift)
    return replace(header, payload=payload)


def opened(header):
    return open_item(header, header.payload)


async def opened_plan(coordinator, epoch, number, role, n):
    """A whole request, as `RayCluster.take` opens it: samples without bytes are lost, bad ones made again."""
    while True:
        headers = await coordinator.take(epoch, number, role, n, 0, 1)
        taken, bad = [], {}
        for header in headers:
            try:
                if header.payload is None:
                    raise BadWindow(LOST, f"{header.name}: its node is gone")
                taken.append(opened(header))
            except BadWindow as reason:
                bad[header.rollout, header.index, header.attempt] = reason
        if not bad:
            return taken
        await coordinator.withdraw(epoch, number, bad)


def saved(state):
    """A supply's state as a checkpoint keeps it."""
    plain, waiting = state
    tensors, plain = to_checkpoint(plain, [(header, opened(header)) for header in waiting])
    return tensors, msgpack.unpackb(msgpack.packb(plain))


def restored(state):
    """What a supply begins with, from a checkpoint's state."""
    return state[1], [sealed(item) for item in from_checkpoint(state)]


def deliver(supply, dispatch, item, drift=None):
    """As actor and coordinator do with what needs no scores, or has them."""
    supply.keep(dispatch, validated(supply, dispatch, item, drift))


def validated(supply, dispatch, item, drift=None):
    """As actor and coordinator do with everything that is made."""
    header = sealed(item, drift)
    supply.validate(dispatch, header)
    return header


class World:
    """A supply, some actors at work, and a learner, moved by a source of chance.

    `requests` are what the learner takes, again and again: role, number, and whether it publishes then.
    """

    requests = [(CRITIC, 2, False)] * 3 + [(STUDENT, 2, True)]

    def __init__(self, config, random, stage="dmd", make=pretended):
        """`make` is what an actor does: called with the config, a dispatch and a version."""
        self.config, self.random, self.make = config, random, make
        self.supply = make_supply(stage_spec(stage, config))
        self.at_work, self.number, self.update, self.versions = [], 0, 0, 0
        self.taken, self.turn = [], 0
        self.publish()

    def publish(self):
        self.supply.versions.publish(self.versions, self.update)
        self.versions += 1

    def act(self, kills=True):
        choice = self.random.random()
        if choice < 0.2 and len(self.at_work) < 3:
            dispatch = self.supply.next()
            if dispatch is not None:
                first = [opened(block).x0 for block in dispatch.first]
                drift = DriftMeter(self.config.student.horizon_frames, first) if self.supply.drift is not None else None
                self.at_work.append((dispatch, self.make(self.config, dispatch, self.versions - 1), drift))
        elif choice < 0.85 and self.at_work:
            self.stream(self.random.randrange(len(self.at_work)), self.random.randrange(1, 12))
        elif choice < 0.9 and self.at_work and kills:
            dispatch, _, _ = self.at_work.pop(self.random.randrange(len(self.at_work)))
            self.supply.give_back(dispatch, afresh=self.random.random() < 0.3)
        else:
            self.learn()

    def stream(self, i, items):
        dispatch, source, drift = self.at_work[i]
        for _ in range(items):
            item = next(source, None)
            if item is None:
                assert not dispatch.missing(self.supply.buffer)[1], "an actor was done and windows were missing"
                self.at_work.pop(i)
                return
            measured = drift.measure(item) if drift is not None and isinstance(item, MadeBlock) else None
            deliver(self.supply, dispatch, item, measured)

    def learn(self):
        role, n, publishes = self.requests[self.turn]
        taken = self.supply.take(self.number, role, n)
        if taken is not None:
            self.number += 1
            self.turn = (self.turn + 1) % len(self.requests)
            self.taken += [opened(header) for header in taken]
            if publishes:
                self.update += 1
                self.publish()

    def rolled_back(self, state, taken, turn, update):
        """The same world with a supply that begins again from a `saved` state, taken when the learner was there."""
        self.supply = make_supply(stage_spec(self.supply.stage, self.config), restored(state))
        self.at_work, self.number, self.taken, self.turn, self.update = [], 0, taken, turn, update
        self.publish()

    def account(self):
        counts = self.supply.buffer.counts
        assert counts["dispatched"] == counts["taken"] + self.supply.buffer.depth + len(self.supply.buffer.pending)
        assert counts["delivered"] == counts["taken"] + self.supply.buffer.depth + counts["dropped"]
