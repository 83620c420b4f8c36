"""Build what supplies a stage from a run's configuration: dispatcher, supply, actor and scorer.

The same on Ray and inline; below, parts take the parts of a configuration that they use.
"""

from collections.abc import Collection

import torch

from actors.dispatchers import GroupDispatcher, SentinelTurns, StudentDispatcher, TeacherDispatcher
from actors.drift_tracker import DriftTracker
from actors.group_actor import GroupActor
from actors.rollout_actor import RolloutActor
from actors.rollout_config import RolloutConfig
from actors.student_actor import WeightSource
from actors.teacher_actor import TeacherActor
from actors.window_law import Priority, parse_law
from cluster.config.run_config import Config
from cluster.runs.run_prompts import prompts_of
from cluster.runs.run_world import world_of
from cluster.supply.buffer import WindowBuffer
from cluster.supply.group_scoring import GroupScorer
from cluster.supply.supply import Supply, SupplyState
from models.checkpoints.weight_files import load_weights
from models.wan.network import ComputeSpec


def make_supply(stage: str, config: Config, state: SupplyState | None = None, kept: Collection[int] = ()) -> Supply:
    """The supply of `stage`, from a checkpoint's `state` if there is one, without the `kept` trajectories."""
    drift = DriftTracker() if follows_drift(stage, config.window.law) else None
    return Supply(
        stage,
        make_dispatcher(stage, config, kept, drift),
        WindowBuffer(config.buffer, config.seed, config.samples_per_update(stage)),
        config.student,
        config.window_of(stage),
        config.rollout,
        config.reward,
        drift,
        state,
    )


def follows_drift(stage: str, law: str) -> bool:
    """Whether a stage's windows are drawn by the drift of its videos."""
    return stage == "dmd" and isinstance(parse_law(law), Priority)


def make_scorer(config: Config, device: str = "cpu") -> GroupScorer:
    """What scores the groups of stage grpo. Raises ValueError where a reward, its flow or the codec cannot be made."""
    own = torch.device(device)
    return GroupScorer(config.reward, config.sentinel.metrics, world_of(config).codec(own), own)


def make_dispatcher(
    stage: str, config: Config, kept: Collection[int] = (), drift: DriftTracker | None = None
) -> StudentDispatcher | TeacherDispatcher | GroupDispatcher:
    """What the pool is asked to make for `stage`; of stage ode all trajectories but the `kept` numbers."""
    if stage == "ode":
        there = set(kept)
        numbers = [i for i in range(config.ode.pairs) if i not in there]
        return TeacherDispatcher(config.student, config.rollout, numbers, prompts_of(config).training(), config.seed)
    if stage == "grpo":
        prompts, held_out = prompts_of(config).groups(config.sentinel.prompts)
        between = config.grpo.groups * config.sentinel.every // config.group.forks
        sentinels = SentinelTurns(held_out, config.sentinel.prompts, config.sentinel.frames, between)
        return GroupDispatcher(
            config.student, config.rollout, config.window.law, config.group, sentinels, prompts, config.seed,
            config.earliest_fork,
        )  # fmt: skip
    return StudentDispatcher(
        config.student,
        config.rollout,
        config.window,
        config.dmd.critic_updates,
        prompts_of(config).training(),
        config.seed,
        drift,
    )


def make_actor(
    stage: str, config: Config, weights: WeightSource, device: str = "cpu"
) -> RolloutActor | TeacherActor | GroupActor:
    """An actor for `stage`, not yet remote."""
    computing = computing_of(config.rollout, device)
    encode_text = world_of(config).text(computing.device)
    if stage == "ode":
        ode = config.ode
        teacher = computing.outline(config.teacher_wan).to_empty(device=computing.device)
        load_weights(teacher, config.teacher_path, "teacher")
        return TeacherActor(
            teacher, config.student, encode_text, ode.solver_steps, ode.guidance, computing.device,
            config.negative_prompt,
        )  # fmt: skip
    actor = GroupActor if stage == "grpo" else RolloutActor
    codec = world_of(config).codec(computing.device)
    return actor(config.student, config.window_of(stage), encode_text, codec, weights, computing)


def computing_of(rollout: RolloutConfig, device: str = "cpu") -> ComputeSpec:
    """Derive how actors compute; weights are published to them in the same dtype."""
    return ComputeSpec(torch.device(device), getattr(torch, rollout.dtype), rollout.compile)
