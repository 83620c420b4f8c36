"""Gather the parts of a run that decide its cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from cluster.config.buffer_config import BufferConfig
from cluster.config.checkpoint_config import CheckpointConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.planning import placement
from cluster.planning.pool_balance import made_share
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from learner.policy_config import GrpoConfig
from learner.stage_config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig
from models.network_config import CONFIGS, StudentConfig, WanConfig
from models.records import GRPO
from rewards.reward_config import RewardConfig

_DISPATCHES, _FORKS = 256, 2**15
"""Most dispatches, and about as many forks, over which the place of forks is averaged."""


@dataclass(frozen=True)
class RunShape:
    """Holds networks, lengths, batches and processes of a run, with two means over its draws."""

    stages: Sequence[str]
    student: StudentConfig
    teacher_model: str | None
    rollout: RolloutConfig
    window: WindowConfig
    group: GroupConfig
    pretrain: PretrainConfig
    ode: OdeConfig
    dmd: DmdConfig
    grpo: GrpoConfig
    learner: LearnerConfig
    buffer: BufferConfig
    checkpoint: CheckpointConfig
    reward: RewardConfig
    cluster: ClusterConfig
    expected_device: str
    most_actors: int
    """Largest number of rollout processes at once; the evaluation process is one."""
    made_share: float
    """Mean share of rollout.frames that an actor of stage dmd makes."""
    last_fork: int
    """Mean frames of a rollout of stage grpo before its last fork, in whole blocks."""

    @property
    def teacher_wan(self) -> WanConfig:
        """Return the teacher's shape."""
        return CONFIGS[self.teacher_model or self.student.model]

    def frames(self, stage: str) -> tuple[int, int]:
        """Count the latent frames of a pass with gradient of `stage`, and the clean frames before them."""
        return frames_of_pass(stage, self.student, self.window, self.group)


def frames_of_pass(stage: str, student: StudentConfig, window: WindowConfig, group: GroupConfig) -> tuple[int, int]:
    """Count the latent frames of a pass with gradient of `stage`, and the clean frames before them.

    Stages teacher and ode see whole videos.
    """
    if stage not in ("dmd", "grpo"):
        return student.horizon_frames, 0
    part = group if stage == "grpo" else window
    return part.frames, student.context_frames + part.burn_in_frames


def judged_stage(stages: Sequence[str]) -> str:
    """Name the stage whose windows stand for all: dmd, unless grpo runs alone."""
    return "grpo" if list(stages) == ["grpo"] else "dmd"


def fixed_shape(config: Config) -> RunShape:
    """Gather the parts of `config` that decide its memory, for which no draws are needed."""
    pool = sum(role.processes for role in placement.roles(config) if role.name in ("rollout", "evaluation"))
    return RunShape(
        stages=config.stages, student=config.student, teacher_model=config.teacher_model, rollout=config.rollout,
        window=config.window, group=config.group, pretrain=config.pretrain, ode=config.ode, dmd=config.dmd,
        grpo=config.grpo, learner=config.learner, buffer=config.buffer, checkpoint=config.checkpoint,
        reward=config.reward, cluster=config.cluster, expected_device=config.expected_device, most_actors=pool,
        made_share=1.0, last_fork=0,
    )  # fmt: skip


def run_shape_of(config: Config) -> RunShape:
    """Gather the parts of `config` that decide its cost, with means over its own draws."""
    share, fork = 1.0, 0
    if "dmd" in config.stages:
        share = made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
    if "grpo" in config.stages:
        dispatcher = make_dispatcher(stage_spec("grpo", config))
        batch, block = config.rollout.batch, config.student.block_frames
        dispatches = min(_DISPATCHES, max(2, _FORKS // (batch * config.group.forks)))
        last = [
            max(plan.start for plan in rollout.windows)
            for number in range(dispatches)
            for rollout in dispatcher.rollouts(config.sentinel.prompts + number * batch)
            if rollout.windows[0].role == GRPO
        ]
        fork = round(sum(last) / len(last) / block) * block
    return replace(fixed_shape(config), made_share=share, last_fork=fork)
