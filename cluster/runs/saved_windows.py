"""Run one half of stage dmd alone: save rollouts as windows, or update on saved windows."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cluster.config.run_config import Config
from cluster.runs.cluster_interface import Cluster, Report
from cluster.runs.run_log import RunLog
from cluster.runs.stage_spec import StageSpec, stage_spec
from cluster.runs.stage_texts import prepared_text, stage_texts
from cluster.runs.trace import Tracer, shares_of
from cluster.supply.item_tensors import put_together, take_apart
from cluster.supply.supply_state import State
from learner.parallel import collectives
from models.atomic_files import atomic_file
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.records import CRITIC, STUDENT, Trajectory, Window
from models.wan.network import Wan

_HEADER = "longtake.windows"


def save_windows(config: Config, cluster: Cluster, log: RunLog) -> None:
    """Run the loop of debug.rollout_only: take windows as stage dmd does, and save them.

    A file holds a rank's share of a batch, with the plain fields as JSON in its header.
    """
    student = Wan(config.student.wan)
    load_weights(student, config.init_path, "init")
    roles = [CRITIC] * config.dmd.critic_updates + [STUDENT]
    steps = -(-config.debug.count // (config.dmd.batch_size * len(roles)))
    spec = stage_spec("dmd", config)
    prepared_text(spec.inputs.world, stage_texts(spec), config.device)
    cluster.begin(spec)
    cluster.publish(student.state_dict, 0)
    begun, before, blocks = None, 0, 0
    for step in range(1, steps + 1):
        for place, role in enumerate(roles):
            number = (step - 1) * len(roles) + place
            apart = [take_apart(window) for window in cluster.take(role, config.dmd.batch_size)]
            tensors = {f"{i}/{name}": t.contiguous() for i, (_, parts) in enumerate(apart) for name, t in parts.items()}
            header = {_HEADER: json.dumps([plain for plain, _ in apart])}
            file = config.saved_windows_path / f"{number:06d}_{collectives.data_rank():04d}.safetensors"
            with atomic_file(file, str(collectives.rank())) as partial:  # ranks of one share write the same
                partial.write_bytes(save(tensors, metadata=header))
            # As an update does: no rank gets ahead of plans that another has still to ask for.
            collectives.all_reduce_max(number)
            if begun is None:  # measured from the first batch on: the processes have started
                before, begun = cluster.metrics().get("windows/delivered", 0), time.perf_counter()
        metrics = cluster.metrics()
        blocks += metrics.get("rollout/blocks", 0)  # rank 0 alone has the metrics
        seconds, windows = time.perf_counter() - begun, metrics.get("windows/delivered", 0) - before
        pace = {"debug/windows_per_s": windows / seconds, "debug/blocks_per_s": blocks / seconds}
        log("rollout_only", step, steps, metrics | pace)
    if collectives.rank() == 0:
        log.progress("saved windows", steps, steps, f"in {config.saved_windows_path}")


class SavedWindow(NamedTuple):
    """Locates a saved window."""

    file: Path
    row: int
    plain: dict[str, Any]

    def load(self) -> Window:
        """Read the window."""
        with safe_open(self.file, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{self.row}/")]  # noqa: SIM118
            parts = {name.partition("/")[2]: file.get_tensor(name) for name in names}
        return put_together(self.plain, parts)


def check_new_windows(folder: Path) -> None:
    """Check that windows can be saved into `folder`. Raises ConfigError for one with files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("debug.windows", folder, "it is not empty", "write the path of a new folder")


def find_windows(folder: Path, frames: int, frame_shape: tuple[int, int, int]) -> dict[str, list[SavedWindow]]:
    """List saved windows by role, in the order in which they were taken. Reads headers only.

    Raises ConfigError where there are none, none of a role, damaged files, or windows of another shape.
    """
    shape = [frames, *frame_shape]
    windows: dict[str, list[SavedWindow]] = {CRITIC: [], STUDENT: []}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                plains = json.loads((file.metadata() or {}).get(_HEADER, "[]"))
                shapes = [file.get_slice(f"{row}/latents").get_shape() for row in range(len(plains))]
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                "debug.windows", folder, f"{path.name} is no whole safetensors file ({error})", "save the windows again"
            ) from error
        for row, (plain, stored) in enumerate(zip(plains, shapes, strict=True)):
            if list(stored) != shape:
                raise ConfigError(
                    "debug.windows", folder,
                    f"{path.name} has windows of shape {list(stored)}, window.frames and student make {shape}",
                    "save windows with this configuration, or write another debug.windows",
                )  # fmt: skip
            windows[plain["role"]].append(SavedWindow(path, row, plain))
    if not any(windows.values()):
        raise ConfigError(
            "debug.windows", folder, "no window is saved there",
            "save some with debug.rollout_only=true, or write their folder",
        )  # fmt: skip
    for role, saved in windows.items():
        if not saved:
            raise ConfigError(
                "debug.windows", folder, f"no {role} window is saved there", "raise debug.count and save anew"
            )
    return windows


class SavedCluster:
    """Supplies the learner with saved windows in a loop, without actors (debug.learner_only)."""

    def __init__(self, folder: Path, frames: int, frame_shape: tuple[int, int, int]):
        self.saved = find_windows(folder, frames, frame_shape)
        self.tracer = Tracer(f"learner {collectives.rank()} (pid {os.getpid()})")

    def begin(self, spec: StageSpec, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Start at the first window, or at the checkpoint's."""
        assert spec.name == "dmd", spec.name
        self.taken = Counter() if state is None else Counter(state[1]["taken"])
        self.batches, self.begun = 0, time.perf_counter()

    def publish(self, weights: Callable[[], Mapping[str, Tensor]], update: int) -> None:
        """Gather the weights, a part of each update, and drop them: no actor rolls them out."""
        self.tracer.settle()
        weights()

    def improving(self) -> bool:
        """Return True: saved windows are for measuring updates, and no student is evaluated."""
        return True

    def take(self, role: str, n: int) -> Sequence[Window]:
        """Load this rank's share of the next `n` windows of a role; the first follows the last."""
        with self.tracer.waiting(f"{role} windows"):
            share, saved = n // collectives.data_size(), self.saved[role]
            first = self.taken[role] + collectives.data_rank() * share
            windows = [saved[(first + i) % len(saved)].load() for i in range(share)]
        self.taken[role] += n
        self.batches += 1
        self.tracer.until_next(f"{role} update")
        return windows

    def take_all(self, role: str, n: int) -> Sequence[Trajectory]:
        """Raise: stage dmd takes no samples on all ranks."""
        raise AssertionError(f"{role} samples are not saved")

    def state(self) -> State:
        """Count the windows taken, by role."""
        self.tracer.until_next("checkpoint", waits=True)
        return {}, {"taken": dict(self.taken)}

    def metrics(self) -> dict[str, Any]:
        """Measure the learner's waiting times, and its updates per second since the stage began."""
        rate = self.batches / (time.perf_counter() - self.begun)
        return shares_of(self.tracer) | {"debug/updates_per_s": rate}

    def report(self, metrics: dict[str, Any]) -> Report:
        """Return the spans of this rank; saved windows are in no ledger."""
        return Report([], self.tracer.drain())
