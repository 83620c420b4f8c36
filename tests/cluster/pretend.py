"""Actors that only pretend: what a real one would stream, without a network."""

import torch

from actors.config import RolloutConfig
from actors.student_actor import blocks_kept
from cluster.buffer import BufferConfig
from cluster.config import Config
from models.rollout import MadeBlock, Window


def small(**buffer):
    config = Config(run_dir="unused", rollout=RolloutConfig(frames=30, batch=3, windows=4))
    config.buffer = BufferConfig(**{"windows": 64} | buffer)
    config.dmd.batch_size = 2
    return config


def pretended(config, dispatch, version):
    """What a real actor would stream of `dispatch` from here on, all frames zero but for their attempt."""
    block, length = config.student.block_frames, config.window.frames
    first = dispatch.made[-1].index + 1 if dispatch.made else 0
    last = max(plan.start + length for r in dispatch.rollouts for plan in r.windows) // block
    made = list(dispatch.made)
    shape = config.student.frame_shape
    for index in range(first, last):
        marks = torch.stack([torch.full((block, *shape), float(r.attempt)) for r in dispatch.rollouts])
        made.append(MadeBlock(index, version, marks, {3: marks}))
        yield made[-1]
        for row, rollout in enumerate(dispatch.rollouts):
            for plan in rollout.windows:
                if plan.start + length == (index + 1) * block:
                    kept = made[-blocks_kept(config.student, config.window) :]
                    frames = torch.cat([entry.x0[row] for entry in kept])
                    yield Window(
                        rollout.id, rollout.attempt, plan.index, plan.role, rollout.prompt, rollout.seed, plan.start,
                        plan.step, tuple(entry.version for entry in kept), frames[:-length], frames[-length:],
                        frames[-length:].clone(),
                    )  # fmt: skip
