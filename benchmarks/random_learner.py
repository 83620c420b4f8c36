"""Build learners with random weights at full size, and updates for them: measurements need no files of weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import distributed

import settings
from actors.group_actor import GroupActor
from benchmarks.measured_network import overrides
from benchmarks.rollout_fps import open_codec
from cluster.config.run_config import Config
from learner import build
from learner.parallel.sharding import shard
from models.network_config import WanConfig
from models.records import CRITIC, GRPO, ODE, STUDENT, Group, GroupPlan, Rollout, Trajectory, Weights, Window
from models.wan.network import ComputeSpec, Wan
from tests.fakes.fixed_weights import FixedWeights

STAGES = ("ode", "dmd", "grpo")
_PROMPT = "a red square"
_ONE_EACH = {
    "ode": ["stage=ode", "ode.batch_size=1"],
    "dmd": ["stage=dmd", "dmd.batch_size=1", "dmd.critic_updates=1"],
    "grpo": [
        "stage=grpo", "grpo.groups=1", "grpo.minibatches=1", "grpo.dmd_members=1", "grpo.critic_updates=1",
        "grpo.critic_warmup=0", "group.members=2", "group.forks=1", "group.burn_in_frames=9",
    ],
}  # fmt: skip
"""Keys of the smallest update of a stage that has every part of a large one."""

Update = Callable[[], dict[str, float]]


def configured(stage: str, model: str, compiled: bool) -> Config:
    """Return the configuration of one small update on one rank."""
    small = ["cluster.learner_ranks=1", "rollout.batch=1", "buffer.max_age=64"]
    return settings.load([*overrides(model), *small, f"learner.compile={compiled}", *_ONE_EACH[stage]])


@contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """Form torch's process group of one GPU, which mixed precision needs; nothing on a CPU."""
    if device.type == "cuda":
        distributed.init_process_group(
            "nccl", store=distributed.HashStore(), rank=0, world_size=1, device_id=torch.device("cuda", 0)
        )
    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def updates_of(stage: str, config: Config, device: torch.device, start: int | None = None) -> Update:
    """Build the learner of a stage and one batch; the result makes an update on it, as often as it is called.

    `start` is the first frame of the windows, or the fork of the group, which an actor with the learner's own weights
    makes before; by default so many frames are before it as the dry run counts. In stage dmd an update is one of the
    critic, then one of the student; "critic" in place of the stage leaves the student's out.
    """
    parts = _parts(config, device)
    if start is None:
        start = config.student.context_frames + config.window_of(stage).burn_in_frames
    if stage == "ode":
        learner = build.ode_initializer(parts, config.ode, _network(parts, parts.student.wan))
        states = torch.randn(len(parts.student.timesteps), parts.student.horizon_frames, *parts.student.frame_shape)
        pairs = [Trajectory(0, 0, 0, ODE, _PROMPT, 0, states, torch.randn_like(states[0]))]
        return lambda: learner.update(pairs, 1)
    networks = [_network(parts, wan) for wan in 2 * [parts.student.wan]]
    networks.append(_network(parts, parts.teacher_wan, frozen=True))
    if stage in ("dmd", "critic"):
        learner = build.dmd_learner(parts, config.dmd, networks)
        windows = [[_window(config, role, start)] for role in (CRITIC, STUDENT)]
        if stage == "critic":
            return lambda: learner.update_critic(windows[0])
        return lambda: learner.update_critic(windows[0]) | learner.update_student(windows[1])
    learner = build.policy_learner(
        parts, config.grpo, config.dmd, config.sentinel, rewards=lambda _: {"made_up": 1.0},
        window_frames=config.window.frames, coarse=config.group.coarse,
        networks=dict(zip(("student", "critic", "teacher"), networks, strict=True)),
    )  # fmt: skip
    weights = {name: tensor.to(device, copy=True) for name, tensor in learner.student.weights().items()}
    group = _group(config, parts, Weights(0, weights), start)
    return lambda: learner.update([replace(group, age=learner.step)])  # only the first is as young as the weights


def _parts(config: Config, device: torch.device) -> build.LearnerParts:
    wan = config.student.wan
    text = torch.randn(1, wan.text_len, wan.text_dim, generator=torch.Generator().manual_seed(0))
    return build.LearnerParts(
        student=config.student, teacher_wan=config.teacher_wan, learner=config.learner,
        encode_text=lambda prompts: text.expand(len(prompts), -1, -1), seed=0, device=device,
        published_dtype=getattr(torch, config.rollout.dtype),
    )  # fmt: skip


def _network(parts: build.LearnerParts, wan: WanConfig, frozen: bool = False) -> Wan:
    """Make a network with random weights as a rank holds it."""
    with parts.device:
        network = Wan(wan)
    dtype = None if parts.learner.dtype == "float32" else getattr(torch, parts.learner.dtype)
    if frozen:
        network.to(getattr(torch, parts.learner.teacher_dtype)).requires_grad_(False)
        dtype = None
    network.checkpoint_activations = parts.learner.checkpoint_activations and not frozen
    network.keep_attention = parts.learner.keep_attention
    if parts.learner.compile:
        network.compile_blocks()
    shard(network, parts.device, dtype)
    return network


def _window(config: Config, role: str, start: int) -> Window:
    """Make a window of noise; its losses cost as much as any other's."""
    shape, frames = config.student, config.window.frames
    history = min(start, shape.context_frames + config.window.burn_in_frames)
    clean, noisy = torch.randn(history + frames, *shape.frame_shape), torch.randn(frames, *shape.frame_shape)
    return Window(
        rollout=0, attempt=0, index=0, role=role, prompt=_PROMPT, seed=0, start=start, step=len(shape.timesteps) - 1,
        versions=(0,), context=clean[:history], latents=clean[history:], noisy=noisy,
        image=torch.randn(shape.frame_shape) if start and shape.in_wan_world else None,
    )  # fmt: skip


def _group(config: Config, parts: build.LearnerParts, weights: Weights, start: int) -> Group:
    """Make a group with an actor: a replay of anything else would stop the learner in its first round."""
    shape, own, computing = config.student, config.group, ComputeSpec(parts.device, parts.published_dtype)
    codec = open_codec("wan_1_3b" if shape.in_wan_world else "tiny", parts.device, computing.dtype)
    actor = GroupActor(shape, config.window_of("grpo"), parts.encode_text, codec, FixedWeights(weights), computing)
    step = len(shape.timesteps) - 1
    plan = GroupPlan(GRPO, start, step, 0, own.members, own.frames, (1,), (0,), own.coarse, own.antithetic)
    (group,) = [
        item for item in actor.windows([Rollout(0, 0, _PROMPT, 7, start + own.frames, (plan,))])
        if isinstance(item, Group)
    ]  # fmt: skip
    windows = own.frames // config.reward.window_frames
    return replace(group, scores={"made_up": [[float(i)] * windows for i in range(own.members)]})
