"""Find a run's teacher trajectories: their folder, origin, and order of arrival."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch

from actors.teacher_actor import solver_sigmas
from cluster.runs.run_world import RunWorld
from cluster.runs.trajectory_folder import OWN, TrajectoryFolder, find_given, find_own, read_index
from cluster.runs.trajectory_index import INDEX, TrajectoryIndex, TrajectoryOrigin
from cluster.supply.buffer import order_of_leaving
from learner.stage_config import OdeConfig
from models.checkpoints.weight_files import stored_tensors
from models.errors import ConfigError
from models.fingerprint import fingerprint
from models.flow_matching import warped_sigmas
from models.network_config import StudentConfig

_MEGABYTE = 10**6


@dataclass(frozen=True)
class RunTrajectories:
    """Keeps the trajectories of stage ode: made into the run's folder, or read from `ode.pairs_dir`."""

    run_dir: Path
    ode: OdeConfig
    student: StudentConfig
    rollouts: int
    """Rollouts of one dispatch."""
    seed: int
    teacher: Path
    world: RunWorld

    @property
    def path(self) -> Path:
        """Return the folder of the trajectories."""
        return self.run_dir / "ode_pairs" if self.ode.pairs_dir is None else Path(self.ode.pairs_dir)

    @cached_property
    def order(self) -> list[int]:
        """Return the numbers of all trajectories, in the order in which a run makes them.

        Updates come to know them in this order whatever is on disk: a resumed run draws the batches of one that was
        never stopped.
        """
        pairs = self.ode.pairs
        dispatches = [range(first, min(first + self.rollouts, pairs)) for first in range(0, pairs, self.rollouts)]
        return [number for numbers in dispatches for number in order_of_leaving(numbers, self.seed, numbers[0])]

    def open(self) -> TrajectoryFolder:
        """Open the trajectories that exist (a collective). Raises TrajectoriesFailed."""
        find = self._given if self.ode.pairs_dir is not None else lambda: find_own(self.path, self.origin())
        per_shard = max(1, self.ode.shard_mb * _MEGABYTE // trajectory_bytes(self.student, self.ode.dtype))
        return TrajectoryFolder(self.path, self.order, per_shard, find)

    def check(self, new_teacher: bool) -> None:
        """Reject trajectories of another teacher or of other settings, and a disk too small; changes nothing.

        `new_teacher`: this run trains its teacher first. Raises ValueError.
        """
        if self.ode.pairs_dir is None:
            needed = self.ode.pairs * trajectory_bytes(self.student, self.ode.dtype)
            stored = sum(file.stat().st_size for file in self.path.glob("shard_*.safetensors"))
            disk = shutil.disk_usage(next(folder for folder in self.path.absolute().parents if folder.is_dir()))
            if disk.total and needed - stored > disk.free:  # /proc has no size; that it takes no files, `claim` finds
                raise ConfigError(
                    "ode.pairs", self.ode.pairs,
                    f"they take {needed / 1e9:,.0f} GB, and run_dir={self.run_dir} has {disk.free / 1e9:,.0f} GB free",
                    "write another run_dir, or lower ode.pairs",
                )  # fmt: skip
            if not new_teacher and (self.path / INDEX).is_file():  # its origin takes a reading of the teacher's weights
                read_index(self.path, self.origin(), *OWN)
        elif new_teacher:
            raise ConfigError(
                "ode.pairs_dir", self.ode.pairs_dir, "stage teacher would make another teacher than theirs",
                "leave stage teacher or ode.pairs_dir out",
            )  # fmt: skip
        else:
            self._given()

    def prompts(self) -> list[str]:
        """List the prompts of the given trajectories that this run trains on. Raises TrajectoriesFailed."""
        needed = set(self.order[: self.ode.pairs_at(self.ode.steps - 1)])
        return [entry.prompt for entry in self._given().entries() if entry.number in needed]

    def origin(self) -> TrajectoryOrigin:
        """Describe the origin of this run's trajectories. Reads all of the teacher's weights."""
        student = self.student
        levels = warped_sigmas(student.timesteps, student.shift)
        sigmas = solver_sigmas(levels, self.ode.solver_steps, student.shift)
        return TrajectoryOrigin(
            teacher=f"{fingerprint(stored_tensors(self.teacher)):016x}",
            solver_steps=len(sigmas),
            timesteps=list(student.timesteps),
            shift=student.shift,
            indices=[*(sigmas.index(sigma) for sigma in levels), -1],
            guidance=self.ode.guidance,
            negative_prompt=self.world.negative_prompt,
            shape=[student.horizon_frames, *student.frame_shape],
            dtype=self.ode.dtype,
            text_encoder=self.world.text(torch.device("cpu")).identity,
        )

    def _given(self) -> TrajectoryIndex:
        needed = self.order[: self.ode.pairs_at(self.ode.steps - 1)]
        return find_given(self.path, self.origin(), needed, "ode.pairs_dir")


def trajectory_bytes(student: StudentConfig, dtype: str) -> int:
    """Compute the bytes of one trajectory in `dtype`: a state per denoising step, and the latents."""
    numbers = prod([len(student.timesteps) + 1, student.horizon_frames, *student.frame_shape])
    return numbers * getattr(torch, dtype).itemsize
