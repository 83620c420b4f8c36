"""Define the interface between training loop and cluster: in one process, on Ray, and on saved windows."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from cluster.runs.stage_spec import StageSpec
from cluster.runs.trace import Reading, Span
from cluster.supply.supply_state import State
from models.records import Group, Trajectory, Window


class Report(NamedTuple):
    """Holds the events since the last report: one row per window taken, and spans of all processes."""

    windows: list[dict[str, Any]]
    spans: Sequence[Span | Reading]


class Cluster(Protocol):
    """Supplies the learner with samples, and takes its weights.

    Every rank calls every verb but `report`, in the same order. One update of stage dmd, on each rank:

        samples = cluster.take("student", 8)     # this rank's share of 8 windows; blocks until they exist
        cluster.publish(learner.weights, 12)     # a new version; actors load it at their next block
        log(..., metrics | cluster.metrics())    # on rank 0 the log then calls cluster.report(metrics)
    """

    def begin(self, spec: StageSpec, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Start to supply a stage, from a checkpoint's `state` if there is one; cancels the stage before.

        `kept`: numbers of trajectories (stage ode) that are on disk and need not be made.
        """

    def publish(self, weights: Callable[[], Mapping[str, Tensor]], update: int) -> None:
        """Publish the student's weights after `update` updates, under a new version number.

        Calls `weights` on every rank, when the tensors of the version before may be overwritten. Waits for no actor:
        each loads the newest version at its next block.
        """

    def improving(self) -> bool:
        """Return False where evaluation.patience ends the stage early; the same on every rank (a collective)."""

    def take(self, role: str, n: int) -> Sequence[Window | Group]:
        """Take this rank's share of the next `n` samples of a role; each sample goes to exactly one rank."""

    def take_all(self, role: str, n: int) -> Sequence[Trajectory | Group]:
        """Take the next `n` samples of a role, all of them on every rank."""

    def state(self) -> State | None:
        """Copy the state of the supply for a checkpoint; None on ranks that write none.

        Call it before the learner's own state: a rank that gathers the latter can no longer take windows.
        """

    def metrics(self) -> dict[str, Any]:
        """Measure the supply and the pool since the last call; docs/reference/metrics.md explains each key."""

    def report(self, metrics: dict[str, Any]) -> Report:
        """Export an update's metrics (on Ray: at its metrics port), and return the report since the last call."""
