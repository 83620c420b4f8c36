"""Actors that only pretend: what a real one would stream, without a network."""

import asyncio
from collections import Counter

import torch

from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.student_actor import blocks_kept
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.pool.scale_down import Place
from cluster.supply.wire import open_item
from learner.policy_config import GrpoConfig
from learner.stage_config import DmdConfig
from models.network_config import StudentConfig
from models.records import Group, MadeBlock, Progress, Window
from rewards.sentinels import SentinelConfig

BLOCKS = WINDOWS = 6
"""Of a rollout; a window is one block, so an actor emits as many windows as blocks."""
CRITIC_UPDATES = 5


def smallest_run(actors: int, seed: int = 0, side: int = 4) -> Config:
    """Configure the shortest rollouts that the rules between keys accept, of square latent frames."""
    return Config(
        seed=seed,
        student=StudentConfig(height=side, width=side, horizon_frames=3, attention_frames=3),
        rollout=RolloutConfig(frames=3 * BLOCKS, batch=1, windows=WINDOWS),
        window=WindowConfig(frames=3, burn_in_frames=0),
        dmd=DmdConfig(batch_size=actors // 4, critic_updates=CRITIC_UPDATES),
        buffer=BufferConfig(windows=WINDOWS * actors + 3 * actors, policy="wait", max_age=8),
        cluster=ClusterConfig(rollout_actors=actors, timeout_s=60.0),
    )


class StandingPool:
    """Processes that are there at once, and never fail by themselves; what they stream is left to others."""

    def __init__(self, slots):
        self.slots, self.next_slot, self.replaced = list(range(slots)), slots, Counter()
        self.dead_with_nothing_to_do = set()

    async def place(self, slot):
        await asyncio.sleep(0)
        return Place(f"node {slot}", {}, ())

    async def begin(self, slot, spec, epoch):
        await asyncio.sleep(0)

    def replace(self, slot):
        self.replaced[slot] += 1

    def grow(self, count):
        added = list(range(self.next_slot, self.next_slot + count))
        self.next_slot += count
        self.slots += added
        return added

    def shrink(self, slot):
        self.slots.remove(slot)

    async def dead(self, slots):
        found = self.dead_with_nothing_to_do & set(slots)
        self.dead_with_nothing_to_do -= found
        return found

    def draining(self):
        return set()

    def copy_from(self, nodes, payloads):
        self.copied = nodes, payloads


def small(**buffer):
    config = Config(run_dir="unused", rollout=RolloutConfig(frames=30, batch=3, windows=4))
    config.buffer = BufferConfig(**{"windows": 64} | buffer)
    config.dmd.batch_size = 2
    return config


def pretended(config, dispatch, version, stray=lambda index: 0.0):
    """What a real actor would stream of `dispatch` from here on, all frames zero but for attempt and straying."""
    block, length = config.student.block_frames, config.window.frames
    made = [open_item(header, header.payload) for header in dispatch.made]
    first = made[-1].index + 1 if made else 0
    last = max(plan.start + length for r in dispatch.rollouts for plan in r.windows) // block
    shape = config.student.frame_shape
    for index in range(first, last):
        marks = torch.stack([torch.full((block, *shape), r.attempt + stray(index)) for r in dispatch.rollouts])
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


def small_grpo(**buffer):
    """Groups of two in videos of thirty frames, and two sentinels before every third round of two groups."""
    config = Config(run_dir="unused", rollout=RolloutConfig(frames=30, batch=3))
    config.buffer = BufferConfig(**{"windows": 64} | buffer)
    config.group = GroupConfig(members=2, frames=12, burn_in_frames=3, forks=1)
    config.grpo = GrpoConfig(groups=2)
    config.sentinel = SentinelConfig(every=3, prompts=2, frames=24, metrics=["exposure_drift"])
    return config


def mark(rollout, block):
    """What all pixels of a block show: exact in float32, told apart by video, attempt and place."""
    return rollout.id + rollout.attempt / 8 + block / 1024


def pretended_groups(config, dispatch, version):
    """What a real actor would stream of `dispatch` from here on in stage grpo; members show their fork's mark."""
    student, made = config.student, [open_item(header, header.payload) for header in dispatch.made]
    block, shape = student.block_frames, student.frame_shape
    kept = (config.group.burn_in_frames + student.context_frames) // block
    last = max(plan.start for rollout in dispatch.rollouts for plan in rollout.windows) // block
    for index in range(made[-1].index + 1 if made else 0, last + 1):
        for row, rollout in enumerate(dispatch.rollouts):
            for plan in rollout.windows:
                if plan.start == index * block:
                    yield from pretended_group(rollout, plan, row, made[-kept:], version, shape)
        if index < last:
            made.append(MadeBlock(index, version, torch.stack([
                torch.full((block, *shape), mark(rollout, index)) for rollout in dispatch.rollouts
            ]), {}))  # fmt: skip
            yield made[-1]


def pretended_group(rollout, plan, row, before, version, shape):
    past = [entry.x0[row] for entry in before]
    latents = torch.full((plan.members, plan.frames, *shape), mark(rollout, plan.start // 3))
    at_transitions = latents[:, None].repeat(1, len(plan.transitions), 1, 1, 1, 1)
    yield Progress(1, "continued block")
    yield Group(
        rollout.id, rollout.attempt, plan.index, plan.role, rollout.prompt, rollout.seed, plan.start, plan.step,
        plan.transitions, (*(entry.version for entry in before), *(version,) * (plan.frames // 3)),
        torch.cat(past) if past else torch.zeros(0, *shape), latents, latents.clone(), at_transitions,
        at_transitions.clone(), at_transitions.clone(),
    )  # fmt: skip


def run(test):
    """Give an asynchronous test a minute."""
    asyncio.run(asyncio.wait_for(test, 60))
