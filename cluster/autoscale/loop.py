"""The pool's size while a run goes on: what is measured, what the controller makes of it, and who is told."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.autoscale.controller import Controller, Decision, Measurements
from cluster.autoscale.meter import Meter
from cluster.config.run_config import Config
from cluster.planning import placement
from cluster.runs.trace import Reading
from cluster.supply.buffer import WindowBuffer

FILE = "autoscale.jsonl"
"""In the run folder: every look at the pool, a line each."""


@dataclass(frozen=True)
class Look:
    """What was seen and decided."""

    size: int
    """The size from now on."""
    told: str | None
    """For the terminal: a size that changes, or that a bound holds since this look."""
    entry: dict[str, Any]
    """For the file."""
    readings: list[Reading]
    """For the trace."""


class Autoscaling:
    """Of one coordinator, for all its stages. Hours are counted on from what the run folder says was spent."""

    def __init__(self, config: Config, meter: Meter, clock: Callable[[], float] = time.time):
        """`clock` gives seconds since the epoch, for what is written down."""
        self.config, self.meter, self.clock = config, meter, clock
        self.file = Path(config.run_dir, FILE)
        _mend(self.file)
        self.spent_before = hours_spent(self.file)
        self.metrics: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """A stage begins: what was learnt of another does not hold."""
        cluster = self.config.cluster
        learner = (
            cluster.learner_ranks * cluster.rank_gpus * placement.processes_per_gpu(placement.rollout(self.config))
        )
        self.controller = Controller(self.config.autoscale, learner or cluster.learner_ranks)
        self.bounds_told: set[str] = set()
        """Of the size there is now: once is enough, though the learner's waiting may come and go."""

    @property
    def gpu_hours(self) -> float:
        """What the pool has cost in this run: hours of whole GPUs, or of processes that have none."""
        return self.spent_before + self.meter.gpu_hours

    def look(self, size: int, buffer: WindowBuffer, stage: str) -> Look:
        """Measure and decide; `size` actors are asked for now."""
        measured = self.meter.measure(size, buffer.capacity, self.gpu_hours)
        decision = self.controller.decide(self.meter.clock(), measured)
        running = size - measured.starting
        self.metrics = {
            "autoscale/wanted": decision.size,
            "autoscale/running": running,
            "autoscale/learner_waiting_share": measured.waiting_share,
            "autoscale/actors_idle": measured.idle,
            "autoscale/rewards_busy_share": measured.scoring,
            "autoscale/gpu_hours": measured.gpu_hours,
        } | ({} if decision.needed is None else {"autoscale/needed": decision.needed})
        entry = {"time": self.clock(), "stage": stage, "now_running": running}
        entry |= {"depth": buffer.depth, "pending": len(buffer.pending), "capacity": buffer.capacity}
        told = self._told(size, decision)
        return Look(
            decision.size,
            told,
            entry | asdict(measured) | {"decision": asdict(decision)},
            self._readings(measured, decision, buffer.depth),
        )

    def _told(self, size: int, decision: Decision) -> str | None:
        if decision.size != size:
            self.bounds_told = {decision.kind}
            return f"rollout pool: from {size} to {decision.size} actors: {decision.reason}"
        if decision.worth_telling and decision.kind not in self.bounds_told:
            self.bounds_told.add(decision.kind)
            return f"rollout pool: stays at {size} actors: {decision.reason}"
        return None

    def _readings(self, measured: Measurements, decision: Decision, depth: int) -> list[Reading]:
        actors = {"running": measured.size - measured.starting, "wanted": decision.size}
        return [
            Reading("rollout pool", "actors", self.clock(), actors),
            Reading("rollout pool", "windows that wait", self.clock(), {"windows": depth}),
            Reading("rollout pool", "learner waits", self.clock(), {"share": measured.waiting_share}),
        ]

    async def run(
        self,
        buffer: WindowBuffer,
        stage: str,
        size: Callable[[], int],
        resize: Callable[[int], Awaitable[None]],
        note: Callable[[Look], None],
    ) -> None:
        """Look at the pool every `autoscale.every_s`, and give it the size that the controller decides.

        `size` gives the actors that are asked for now; `note` is given every look.
        """
        while True:
            await asyncio.sleep(self.config.autoscale.every_s)
            before = size()
            look = self.look(before, buffer, stage)
            note(look)
            if look.size != before:
                await resize(look.size)
            try:
                await asyncio.to_thread(self.write, look.entry)  # shared storage may hang
            except OSError as error:  # a look that cannot be read later is no reason to stop a run
                note(
                    replace(
                        look,
                        told=f"{FILE} of the run cannot be written ({error.strerror or error}); the pool goes on",
                        readings=[],
                    )
                )

    def write(self, entry: dict[str, Any]) -> None:
        """Append a look to the file."""
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def looks(file: Path) -> list[dict[str, Any]]:
    """Every look that a run has written down, without a last line that a kill cut off."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _mend(file: Path) -> None:
    """Take away a last line that a kill cut off, before another is appended to it."""
    if file.exists():
        written = file.read_bytes()
        os.truncate(file, written.rfind(b"\n") + 1)


def hours_spent(file: Path) -> float:
    """What the last look says that the pool has cost; 0 where there is none."""
    return max((look["gpu_hours"] for look in looks(file)), default=0.0)
