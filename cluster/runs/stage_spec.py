"""Derive, in the learner's process, the parts of a configuration that actors, scorers and supply need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.window_law import Priority, parse_law
from cluster.config.buffer_config import BufferConfig
from cluster.config.run_config import Config
from cluster.config.training_evaluation_config import TrainingEvaluationConfig
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_prompts import RunPrompts
from cluster.runs.run_world import RunWorld
from cluster.runs.trajectories import RunTrajectories
from learner.stage_config import OdeConfig
from models.network_config import StudentConfig, WanConfig
from models.user_paths import user_path
from rewards.reward_config import RewardConfig
from rewards.sentinels import SentinelConfig


@dataclass(frozen=True)
class RunInputs:
    """Holds the inputs of a run: prompts, text encoder and codec, and the teacher's trajectories."""

    prompts: RunPrompts
    world: RunWorld
    trajectories: RunTrajectories


@dataclass(frozen=True)
class ActorSpec:
    """Holds the parts for building an actor of a stage."""

    stage: str
    student: StudentConfig
    rollout: RolloutConfig
    window: WindowConfig
    """Windows, with the burn-in of the stage."""
    world: RunWorld
    ode: OdeConfig
    teacher: Path
    teacher_wan: WanConfig

    @property
    def follows_drift(self) -> bool:
        """Return whether the stage's windows are drawn by the drift of its videos."""
        return self.stage == "dmd" and isinstance(parse_law(self.window.law), Priority)


@dataclass(frozen=True)
class ScorerSpec:
    """Holds the parts for building the scorer of stage grpo."""

    reward: RewardConfig
    metrics: Sequence[str]
    """Metrics of sentinel videos, by name."""
    horizon_frames: int
    world: RunWorld


@dataclass(frozen=True)
class EvaluationSpec:
    """Holds the parts for evaluating the students of a stage while it trains."""

    stage: str
    run_dir: str
    keys: TrainingEvaluationConfig
    prompts: tuple[str, ...]
    """A prompt for each video."""
    seed: int
    student: StudentConfig
    rollout: RolloutConfig
    world: RunWorld

    def folder(self, step: int) -> Path:
        """Return where the evaluation after `step` updates is written."""
        return RunFolder(self.run_dir).evaluation(self.stage, step)

    @property
    def best_file(self) -> Path:
        """Return the weights of the best student of the stage."""
        return Path(self.run_dir, self.stage, "best.safetensors")


@dataclass(frozen=True)
class StageSpec:
    """Holds the parts for building dispatcher and supply of a stage, and the specs of its actors and scorer."""

    name: str
    actor: ActorSpec
    scorer: ScorerSpec
    inputs: RunInputs
    run_dir: str
    seed: int
    buffer: BufferConfig
    samples_per_update: int
    steps: int
    critic_updates: int
    groups: int
    """Number of groups in one update of stage grpo."""
    group: GroupConfig
    sentinel: SentinelConfig
    earliest_fork: int
    timeout_s: float
    """Seconds that the learner waits for samples."""
    evaluation: EvaluationSpec | None = None
    """None where evaluation.every is 0."""


def inputs_of(config: Config) -> RunInputs:
    """Derive the inputs of a run; folders that are not given are searched next to teacher and base."""
    neighbours = config.teacher_path, config.base_source.path
    # One type in all processes, with GPUs and without: embeddings of another would be other entries of the cache.
    dtype = torch.bfloat16 if config.cluster.rank_gpus else torch.float32
    world = RunWorld(
        config.student.wan,
        config.world_folder("text_encoder", *neighbours), config.world_folder("vae", *neighbours),
        user_path(config.text_cache, "text_cache"), dtype, config.negative_prompt,
    )  # fmt: skip
    folder, file = Path(config.run_dir), None if config.prompts is None else Path(config.prompts)
    trajectories = RunTrajectories(
        folder, config.ode, config.student, config.rollout.batch, config.seed, config.teacher_path, world
    )
    return RunInputs(RunPrompts(folder, file, config.prompt, config.seed), world, trajectories)


def stage_spec(stage: str, config: Config) -> StageSpec:
    """Derive the spec of `stage` (ode, dmd or grpo)."""
    inputs = inputs_of(config)
    actor = ActorSpec(
        stage, config.student, config.rollout, config.window_of(stage), inputs.world, config.ode, config.teacher_path,
        config.teacher_wan,
    )  # fmt: skip
    scorer = ScorerSpec(config.reward, config.sentinel.metrics, config.student.horizon_frames, inputs.world)
    evaluation = None
    if config.evaluated_stages:
        prompts = inputs.prompts.evaluated(config.evaluation.prompts)
        evaluation = EvaluationSpec(
            stage, config.run_dir, config.evaluation, prompts, config.seed, config.student, config.rollout, inputs.world
        )
    steps = {"ode": config.ode, "dmd": config.dmd, "grpo": config.grpo}[stage].steps
    return StageSpec(
        stage, actor, scorer, inputs, config.run_dir, config.seed, config.buffer, config.samples_per_update(stage),
        steps, config.dmd.critic_updates, config.grpo.groups, config.group, config.sentinel, config.earliest_fork,
        config.cluster.timeout_s, evaluation,
    )  # fmt: skip
