"""Implement `Cluster` for a learner rank by calls to the coordinator."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
from torch import Tensor

from cluster.pool.learner_progress import PREPARING, Shown
from cluster.pool.rollout_process import fetch
from cluster.runs.cluster_interface import Report
from cluster.runs.stage_spec import StageSpec
from cluster.runs.trace import Tracer, clock_offset, shares_of
from cluster.supply.supply_state import State, from_checkpoint, to_checkpoint
from cluster.supply.wire import BadWindow, seal
from cluster.weights.object_store import Handover
from cluster.weights.version import WeightsVersion, version_numbers
from learner.parallel import collectives
from models.records import Group, Trajectory, Window

_CALL_TIMEOUT_S = 120.0
_ENDING = f"ending stage {{}}: writing its student, or {PREPARING} of the next"


class RayCluster:
    """Calls the coordinator for a learner rank; only rank 0 calls where one call is enough."""

    def __init__(self, coordinator: ray.actor.ActorHandle, compiles: bool = False):
        """Say in status lines that a role's first update compiles, where it does."""
        self.coordinator, self.compiles = coordinator, compiles
        self.roles: set[str] = set()
        """Roles of which an update has begun."""
        self._enter(PREPARING)
        offset = clock_offset(lambda: self._ask(coordinator.clock))
        self.tracer = Tracer(f"learner {collectives.rank()} (pid {os.getpid()})", offset)
        self.epoch, self.number = 0, 0
        self.versions: Iterator[int] | None = None
        self.handover: Handover | None = None
        """Hand-over of the last version, on rank 0, until something waits for it."""

    def begin(self, spec: StageSpec, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Start supplying a stage, and cancel the rest of the one before."""
        self._enter(f"starting stage {spec.name}")
        with self.tracer.waiting("begin"):
            self.settle()
            begin = self.coordinator.begin
            epoch, stored = 0, None
            if collectives.rank() == 0:
                if state is not None:  # the payloads of waiting samples go into Ray's store
                    sealed = [seal(item) for item in from_checkpoint(state)]
                    stored = state[1], [replace(header, payload=ray.put(payload)) for header, payload in sealed]
                epoch = self._ask(begin, spec, stored, kept)
            self.epoch, self.number = collectives.broadcast(epoch), 0
        self.stage, self.since_best = spec.name, 0
        self.patience = 0 if spec.evaluation is None else spec.evaluation.keys.patience
        self.timeout_s, self.dtype = spec.timeout_s, getattr(torch, spec.actor.rollout.dtype)
        if self.versions is None or state is not None:
            self.versions = version_numbers(spec.run_dir, () if state is None else state[1]["lineage"])

    def publish(self, weights: Callable[[], Mapping[str, Tensor]], update: int) -> None:
        """Offer the newest weights to the coordinator, which collects them while this process trains.

        A failure of that is raised while the next windows are waited for, or here the next time.
        """
        self.tracer.settle()
        self._enter("publishing weights")
        with self.tracer.waiting("publish"):
            self.settle()  # `weights` overwrites the tensors of the version before
            tensors = weights()
            if collectives.rank() == 0:
                version = next(self.versions)
                offer = partial(self.coordinator.publish.remote, self.epoch, version, update)
                make = partial(WeightsVersion.of, version, update, tensors, self.dtype)
                self.handover = Handover(offer, version, make, _CALL_TIMEOUT_S)

    def settle(self) -> None:
        """Wait for the last version's hand-over, also at a run's end. Raises its error."""
        handover, self.handover = self.handover, None
        if handover is not None:
            handover.wait()

    def improving(self) -> bool:
        """Return whether the stage goes on, by the last evaluation that rank 0 has seen in `metrics`."""
        improves = not self.patience or collectives.broadcast(self.since_best) < self.patience
        if not improves:
            self._enter(_ENDING.format(self.stage))
        return improves

    def take(self, role: str, n: int) -> Sequence[Window]:
        """Return this data rank's share of the next `n` windows of a role."""
        # Ranks that split a window must hold the same one: a payload that is bad for one of them is bad for all.
        agree = int if collectives.sequence_group() is None else collectives.all_reduce_max
        return self._take(role, n, collectives.data_rank(), collectives.data_size(), agree)

    def take_all(self, role: str, n: int) -> Sequence[Trajectory | Group]:
        """Return the next `n` samples of a role, all of them on every rank."""
        return self._take(role, n, 0, 1, collectives.all_reduce_max)  # no update in between holds the ranks together

    def _take(self, role: str, n: int, rank: int, size: int, agree: Callable[[int], int] = int) -> list[Any]:
        """Fetch a share of the next request until every payload is good; `agree` sums bad ones over the ranks."""
        self._enter(f"waiting for {role} windows")
        with self.tracer.waiting(f"{role} windows"):
            while True:
                request = self.coordinator.take.remote(self.epoch, self.number, role, n, rank, size)
                if self.handover is not None:  # no windows would come from weights that never arrive
                    ray.wait([request, self.handover.answer], timeout=_CALL_TIMEOUT_S)
                    if ray.wait([self.handover.answer], timeout=0)[0]:
                        self.settle()
                headers = ray.get(request, timeout=self.timeout_s + _CALL_TIMEOUT_S)
                samples = fetch(headers)
                bad = {
                    (header.rollout, header.index, header.attempt): sample
                    for header, sample in zip(headers, samples, strict=True)
                    if isinstance(sample, BadWindow)
                }
                if bad:
                    self._ask(self.coordinator.withdraw, self.epoch, self.number, bad)
                if not agree(len(bad)):
                    break
        self.number += 1
        self.tracer.until_next(f"{role} update")
        first = self.compiles and role not in self.roles
        self._enter(f"compiling for its first {role} update" if first else f"updating on {role} windows")
        self.roles.add(role)
        return samples

    def state(self) -> State | None:
        """Return the supply's state for a checkpoint, on rank 0; None elsewhere."""
        self._enter("writing a checkpoint")
        self.tracer.until_next("checkpoint", waits=True)
        if collectives.rank() > 0:
            return None
        plain, waiting = self._ask(self.coordinator.state)
        return to_checkpoint(plain, zip(waiting, fetch(waiting), strict=True))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of supply and pool, and the shares of time that this rank has waited."""
        if collectives.rank() == 0:
            metrics = self._ask(self.coordinator.metrics)
            self.since_best = metrics.get("evaluation/since_best", self.since_best)
            return shares_of(self.tracer) | metrics
        self.tracer.interval()
        self.coordinator.keep_spans.remote(self.tracer.drain())  # rank 0 writes them into the trace
        return {}

    def report(self, metrics: dict[str, Any]) -> Report:
        """Show an update's metrics at Ray's metrics port; return windows taken and spans since the last report."""
        windows, spans = self._ask(self.coordinator.report, metrics)
        return Report(windows, self.tracer.drain() + spans)

    def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """Send progress for the display, without waiting."""
        self._enter("updating" if step < steps else _ENDING.format(stage), (stage, step, steps, line))

    def _enter(self, phase: str, shown: Shown | None = None) -> None:
        """Send the work that begins now, for status lines, without waiting."""
        if collectives.rank() == 0:
            self.coordinator.show.remote(phase, shown)

    @staticmethod
    def _ask(method: Any, *arguments: Any) -> Any:
        return ray.get(method.remote(*arguments), timeout=_CALL_TIMEOUT_S)
