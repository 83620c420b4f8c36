"""A simulated run: no network, no process, any order of events."""

from cluster.runs.factory import make_supply
from cluster.supply.validation import inspect_values
from models.records import CRITIC, STUDENT
from tests.fakes.small_runs import pretended


def deliver(supply, dispatch, item):
    """As the coordinator does with what needs no scores, or has them."""
    inspect_all(supply, dispatch, item)
    supply.keep(dispatch, item)


def inspect_all(supply, dispatch, item):
    """As the coordinator does with everything that comes."""
    inspect_values(item)
    supply.inspect(dispatch, item)


class World:
    """A supply, some actors at work, and a learner, moved by a source of chance.

    `requests` are what the learner takes, again and again: role, number, and whether it publishes then.
    """

    requests = [(CRITIC, 2, False)] * 3 + [(STUDENT, 2, True)]

    def __init__(self, config, random, stage="dmd", make=pretended):
        """`make` is what an actor does: called with the config, a dispatch and a version."""
        self.config, self.random, self.make = config, random, make
        self.supply = make_supply(stage, config)
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
                self.at_work.append((dispatch, self.make(self.config, dispatch, self.versions - 1)))
        elif choice < 0.85 and self.at_work:
            self.stream(self.random.randrange(len(self.at_work)), self.random.randrange(1, 12))
        elif choice < 0.9 and self.at_work and kills:
            dispatch, _ = self.at_work.pop(self.random.randrange(len(self.at_work)))
            self.supply.give_back(dispatch, afresh=self.random.random() < 0.3)
        else:
            self.learn()

    def stream(self, i, items):
        dispatch, source = self.at_work[i]
        for _ in range(items):
            item = next(source, None)
            if item is None:
                assert not self.supply.missing(dispatch), "an actor was done and windows were missing"
                self.at_work.pop(i)
                return
            deliver(self.supply, dispatch, item)

    def learn(self):
        role, n, publishes = self.requests[self.turn]
        taken = self.supply.take(self.number, role, n)
        if taken is not None:
            self.number += 1
            self.turn = (self.turn + 1) % len(self.requests)
            self.taken += taken
            if publishes:
                self.update += 1
                self.publish()

    def rolled_back(self, state, taken, turn, update):
        """The same world with a supply that begins again from `state`, taken when the learner was there."""
        self.supply = make_supply(self.supply.stage, self.config, state)
        self.at_work, self.number, self.taken, self.turn, self.update = [], 0, taken, turn, update
        self.publish()

    def account(self):
        counts = self.supply.buffer.counts
        assert counts["dispatched"] == counts["taken"] + self.supply.buffer.depth + len(self.supply.buffer.pending)
        assert counts["delivered"] == counts["taken"] + self.supply.buffer.depth + counts["dropped"]
