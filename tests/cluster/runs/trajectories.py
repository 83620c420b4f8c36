"""Trajectories that no network has made, and the folder that they are kept in."""

from pathlib import Path

import torch

from cluster.runs.trajectory_folder import TrajectoryFolder, find_own
from cluster.runs.trajectory_index import TrajectoryOrigin
from models.flow_matching import warped_sigmas
from models.network_config import StudentConfig
from models.records import ODE, Trajectory
from models.worlds.tiny_prompts import PROMPTS

SMALL = StudentConfig(height=4, width=8, horizon_frames=6, attention_frames=6, timesteps=[1000.0, 500.0])


def straight(count: int, shape: StudentConfig = SMALL) -> list[Trajectory]:
    """States [S K C H W] on straight lines from noise to x0: what a teacher that is sure would give."""
    sigmas = warped_sigmas(shape.timesteps, shape.shift)
    generator, made = torch.Generator().manual_seed(0), []
    for i in range(count):
        noise, x0 = torch.randn(2, shape.horizon_frames, *shape.frame_shape, generator=generator).unbind()
        states = torch.stack([(1 - sigma) * x0 + sigma * noise for sigma in sigmas])
        made.append(Trajectory(i, 0, 0, ODE, PROMPTS[i % len(PROMPTS)], 1000 + i, states, x0))
    return made


def origin(shape: StudentConfig = SMALL, dtype: str = "float32") -> TrajectoryOrigin:
    steps = len(shape.timesteps)
    return TrajectoryOrigin(
        teacher="0123456789abcdef", solver_steps=4 * steps, timesteps=list(shape.timesteps), shift=shape.shift,
        indices=[*(4 * step for step in range(steps)), -1], guidance=1.5, negative_prompt="",
        shape=[shape.horizon_frames, *shape.frame_shape], dtype=dtype, text_encoder="tiny",
    )  # fmt: skip


def kept_in(path: Path, order, per_shard: int, made_by: TrajectoryOrigin | None = None, say=print) -> TrajectoryFolder:
    """A folder of a run whose shards hold `per_shard` trajectories."""
    made_by = origin() if made_by is None else made_by
    return TrajectoryFolder(path, order, per_shard, lambda: find_own(path, made_by, say))
