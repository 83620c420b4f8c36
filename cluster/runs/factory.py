"""Build dispatcher, supply, actor and scorer of a stage, the same on Ray and inline."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from actors.dispatchers import GroupDispatcher, SentinelTurns, StudentDispatcher, TeacherDispatcher
from actors.drift_tracker import DriftTracker
from actors.group_actor import GroupActor
from actors.rollout_actor import RolloutActor
from actors.rollout_config import RolloutConfig
from actors.student_actor import WeightSource
from actors.teacher_actor import TeacherActor
from cluster.runs.stage_spec import ActorSpec, ScorerSpec, StageSpec
from cluster.supply.buffer import WindowBuffer
from cluster.supply.group_scoring import GroupScorer
from cluster.supply.supply import Supply
from cluster.supply.supply_state import SupplyState
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.wan.network import ComputeSpec


def make_supply(spec: StageSpec, state: SupplyState | None = None, kept: Collection[int] = ()) -> Supply:
    """Build the supply of a stage, from a checkpoint's `state` if there is one, without the `kept` trajectories."""
    actor = spec.actor
    drift = DriftTracker() if actor.follows_drift else None
    dispatcher = make_dispatcher(spec, kept, drift)
    buffer = WindowBuffer(spec.buffer, spec.seed, spec.samples_per_update)
    return Supply(
        spec.name, dispatcher, buffer, actor.student, actor.window, actor.rollout, spec.scorer.reward, drift, state
    )


def make_scorer(spec: ScorerSpec, device: str = "cpu") -> GroupScorer:
    """Build the scorer of groups. Raises ValueError where a reward, its flow or the codec cannot be made."""
    own, reward = torch.device(device), spec.reward
    if reward.vae is None:
        return GroupScorer(reward, spec.metrics, spec.world.codec(own), own)
    try:
        codec = replace(spec.world, vae=Path(reward.vae)).codec(own)
    except ConfigError as error:
        raise ConfigError("reward.vae", reward.vae, error.problem, error.fix) from error
    return GroupScorer(reward, spec.metrics, codec, own)


def make_dispatcher(
    spec: StageSpec, kept: Collection[int] = (), drift: DriftTracker | None = None
) -> StudentDispatcher | TeacherDispatcher | GroupDispatcher:
    """Build the plan of a stage's rollouts; of stage ode all trajectories but the `kept` numbers."""
    actor, prompts, seed = spec.actor, spec.inputs.prompts, spec.seed
    student, rollout = actor.student, actor.rollout
    if spec.name == "ode":
        stored = set(kept)
        numbers = [i for i in range(actor.ode.pairs) if i not in stored]
        return TeacherDispatcher(student, rollout, numbers, prompts.training(), seed)
    if spec.name == "grpo":
        training, held_out = prompts.groups(spec.sentinel.prompts)
        between = spec.groups * spec.sentinel.every // spec.group.forks
        sentinels = SentinelTurns(held_out, spec.sentinel.prompts, spec.sentinel.frames, between)
        return GroupDispatcher(
            student, rollout, actor.window.law, spec.group, sentinels, training, seed, spec.earliest_fork
        )
    return StudentDispatcher(student, rollout, actor.window, spec.critic_updates, prompts.training(), seed, drift)


def make_actor(spec: ActorSpec, weights: WeightSource, device: str = "cpu") -> RolloutActor | TeacherActor | GroupActor:
    """Build an actor, not yet remote."""
    computing = computing_of(spec.rollout, device)
    encode_text = spec.world.text(computing.device)
    if spec.stage == "ode":
        teacher = computing.outline(spec.teacher_wan).to_empty(device=computing.device)
        load_weights(teacher, spec.teacher, "teacher")
        return TeacherActor(
            teacher, spec.student, encode_text, spec.ode.solver_steps, spec.ode.guidance, computing.device,
            spec.world.negative_prompt,
        )  # fmt: skip
    actor = GroupActor if spec.stage == "grpo" else RolloutActor
    return actor(spec.student, spec.window, encode_text, spec.world.codec(computing.device), weights, computing)


def computing_of(rollout: RolloutConfig, device: str = "cpu") -> ComputeSpec:
    """Derive how actors compute; weights are published to them in the same dtype."""
    return ComputeSpec(torch.device(device), getattr(torch, rollout.dtype), rollout.compile)
