"""Resize the rollout pool during a run: measure, decide, and log every decision."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.autoscale.controller import QUIET, Controller
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.runs.trace import Reading
from cluster.supply.buffer import WindowBuffer

FILE = "autoscale.jsonl"
"""File of the run folder with one line per look at the pool."""


@dataclass(frozen=True)
class Look:
    """Holds one look at the pool, and its decision."""

    size: int
    """Size of the pool from now on."""
    line: str | None
    """Line for the terminal about a change of size or a new bound; else None."""
    entry: dict[str, Any]
    """Entry for the file."""
    readings: list[Reading]
    """Readings for the trace."""


class Autoscaling:
    """Sizes the pool of one coordinator, for all its stages. GPU-hours continue from those in the run folder."""

    def __init__(
        self,
        config: AutoscaleConfig,
        meter: Meter,
        run_dir: str,
        learner_cost: float = 1.0,
        clock: Callable[[], float] = time.time,
    ):
        """Continue the folder's GPU-hours; `learner_cost` as in Controller, `clock` in seconds since the epoch."""
        self.config, self.meter, self.learner_cost, self.clock = config, meter, learner_cost, clock
        self.file = Path(run_dir, FILE)
        if self.file.exists():  # remove a last line that a kill cut off, before another is appended to it
            os.truncate(self.file, self.file.read_bytes().rfind(b"\n") + 1)
        self.spent_before = max((look["gpu_hours"] for look in read_looks(self.file)), default=0.0)
        self.metrics: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a stage with a new controller: costs differ between stages."""
        self.controller = Controller(self.config, self.learner_cost)
        self.shown_bounds: set[str] = set()
        """Bounds already shown for the present size; each is shown once."""

    def look(self, size: int, buffer: WindowBuffer, stage: str) -> Look:
        """Measure the pool of `size` requested actors, and decide."""
        # Hours of whole GPUs, or of processes that have none.
        gpu_hours = self.spent_before + self.meter.totals()["held"] / 3600
        measured = self.meter.measure(size, buffer.capacity, gpu_hours)
        decision = self.controller.decide(self.meter.clock(), measured)
        now, running = self.clock(), size - measured.starting
        self.metrics = {
            "autoscale/wanted": decision.size,
            "autoscale/running": running,
            "autoscale/learner_waiting_share": measured.waiting_share,
            "autoscale/actors_idle": measured.idle,
            "autoscale/rewards_busy_share": measured.scoring,
            "autoscale/gpu_hours": measured.gpu_hours,
        } | ({} if decision.needed is None else {"autoscale/needed": decision.needed})
        line = None
        if decision.size != size:
            self.shown_bounds = {decision.kind}
            line = f"rollout pool: from {size} to {decision.size} actors: {decision.reason}"
        elif decision.kind not in {*QUIET, *self.shown_bounds}:
            self.shown_bounds.add(decision.kind)
            line = f"rollout pool: stays at {size} actors: {decision.reason}"
        entry = {"time": now, "stage": stage, "now_running": running}
        entry |= {"depth": buffer.depth, "pending": len(buffer.pending), "capacity": buffer.capacity}
        entry |= asdict(measured) | {"decision": asdict(decision)}
        readings = [
            Reading("rollout pool", "actors", now, {"running": running, "wanted": decision.size}),
            Reading("rollout pool", "windows that wait", now, {"windows": buffer.depth}),
            Reading("rollout pool", "learner waits", now, {"share": measured.waiting_share}),
        ]
        return Look(decision.size, line, entry, readings)

    async def run(
        self,
        buffer: WindowBuffer,
        stage: str,
        size: Callable[[], int],
        resize: Callable[[int], Awaitable[None]],
        note: Callable[[Look], None],
    ) -> None:
        """Resize the pool every `autoscale.every_s` as the controller decides.

        `size` returns the requested actors; `note` receives every look.
        """
        while True:
            await asyncio.sleep(self.config.every_s)
            before = size()
            look = self.look(before, buffer, stage)
            note(look)
            if look.size != before:
                await resize(look.size)
            try:
                await asyncio.to_thread(self.write, look.entry)  # shared storage may hang
            except OSError as error:  # the log of looks is not needed by the run
                line = f"{FILE} of the run cannot be written ({error.strerror or error}); autoscaling continues"
                note(replace(look, line=line, readings=[]))

    def write(self, entry: dict[str, Any]) -> None:
        """Append a look to the file."""
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_looks(file: Path) -> list[dict[str, Any]]:
    """Return every look that a run has logged, without a last line that a kill cut off."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
