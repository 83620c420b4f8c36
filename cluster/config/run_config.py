"""Declare the whole configuration of a run: the keys of every part, and the rules between them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.prompt_config import PromptConfig
from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from cluster.config import grpo_rules, rules
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.buffer_config import BufferConfig
from cluster.config.checkpoint_config import CheckpointConfig
from cluster.config.cluster_config import ClusterConfig, DebugConfig, WandbConfig
from cluster.config.devices import DEVICES
from cluster.config.rules import STAGES
from cluster.config.training_evaluation_config import TrainingEvaluationConfig
from learner.policy_config import GrpoConfig
from learner.stage_config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig, Source
from models.checkpoints.weight_containers import is_torch_file
from models.errors import ConfigError
from models.keys import key, part
from models.network_config import CONFIGS, StudentConfig, WanConfig
from models.text.negative_prompt import WAN_NEGATIVE_PROMPT
from models.worlds.world_config import SHIPPED_STUDENT, WorldConfig
from rewards.reward_config import RewardConfig
from rewards.sentinels import SentinelConfig

if TYPE_CHECKING:
    import torch


@dataclass(kw_only=True)
class Config(WorldConfig):
    """Holds the whole configuration of a run; its construction checks all values and rules."""

    stage: Any = key(["ode", "dmd"], "stages to train, one or a list in order: " + ", ".join(STAGES), resumable=True)
    run_dir: str = key(
        "runs/tiny", "folder of the run; on a cluster an absolute path on shared storage", resumable=True
    )
    seed: int = key(0, "seed of all random draws", ge=0, lt=2**63)
    teacher: str = key("assets/tiny/teacher.safetensors", "weights of the teacher")
    teacher_model: str | None = key(None, "network of the teacher; none: student.model", choices=CONFIGS)
    base: str | None = key(None, "weights that student (stage ode) and critic start from; none: the teacher's")
    init: str | None = key(None, "student weights that stage dmd starts from, in place of stage ode")
    prompts: str | None = key(
        None, "training prompts: a txt, jsonl, json, csv, tsv or parquet file; none: the tiny world's"
    )
    dry_run: bool = key(
        False, "print sizes, memory, operations and expected seconds, and start nothing", resumable=True
    )
    device_name: str | None = key(
        None,
        f"device that dry_run expects: {', '.join(DEVICES)}; none: h100 for a run with GPUs, else cpu",
        choices=tuple(DEVICES),
        resumable=True,
    )
    student: StudentConfig = part(StudentConfig)
    prompt: PromptConfig = part(PromptConfig)
    rollout: RolloutConfig = part(RolloutConfig)
    window: WindowConfig = part(WindowConfig)
    pretrain: PretrainConfig = part(PretrainConfig)
    ode: OdeConfig = part(OdeConfig)
    dmd: DmdConfig = part(DmdConfig)
    grpo: GrpoConfig = part(GrpoConfig)
    group: GroupConfig = part(GroupConfig)
    reward: RewardConfig = part(RewardConfig)
    sentinel: SentinelConfig = part(SentinelConfig)
    learner: LearnerConfig = part(LearnerConfig)
    checkpoint: CheckpointConfig = part(CheckpointConfig, resumable=True)
    buffer: BufferConfig = part(BufferConfig)
    cluster: ClusterConfig = part(ClusterConfig, resumable=True)
    autoscale: AutoscaleConfig = part(AutoscaleConfig, resumable=True)
    wandb: WandbConfig = part(WandbConfig, resumable=True)
    tensorboard: bool = key(
        False, "log to TensorBoard too, in run_dir/tensorboard; log.to=[wandb,tensorboard] sets both", resumable=True
    )
    evaluation: TrainingEvaluationConfig = part(TrainingEvaluationConfig, resumable=True)
    debug: DebugConfig = part(DebugConfig, resumable=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.run_dir:
            raise ConfigError("run_dir", None, "empty", "write the path of a folder")
        stages, student, dmd, earliest = self.stages, self.student, self.dmd, self.earliest_fork
        rules.check_stages(stages, self.init, self.grpo.init, self.debug)
        rules.check_networks(student, self.teacher_model, self.base, stages)
        rules.check_frames(student, self.rollout, self.window, stages)
        sizes = {"teacher": self.pretrain.batch_size, "ode": self.ode.batch_size, "dmd": dmd.batch_size}
        parts = {"teacher": "pretrain", "ode": "ode", "dmd": "dmd"}
        batches = {f"{parts[stage]}.batch_size": sizes[stage] for stage in stages if stage in sizes}
        heads = {f"student.model={student.model}": student.wan.num_attention_heads}
        if self.teacher_model is not None:
            heads[f"teacher_model={self.teacher_model}"] = self.teacher_wan.num_attention_heads
        rules.check_learner(self.learner, self.cluster, batches, heads)
        if "dmd" in stages:
            dispatch = self.rollout.batch * self.rollout.windows
            rules.check_buffer(self.buffer, dispatch, self.samples_per_update("dmd"))
        rules.check_autoscale(self.autoscale, self.cluster, self.debug.half)
        if self.evaluated_stages:
            held_out = self.sentinel.prompts if "grpo" in stages and self.prompts is not None else None
            rules.check_evaluation(self.evaluation, student, held_out)
        if "grpo" in stages:
            grpo_rules.check_group_frames(student, self.group, self.reward, self.sentinel)
            grpo_rules.check_forks(student, self.rollout, self.window, self.group, earliest)
            grpo_rules.check_members(student, self.window, self.group, self.grpo, dmd.replay, earliest)
            ranks, micro_batch = self.cluster.data_ranks, self.learner.micro_batch
            grpo_rules.check_rounds(student, self.group, self.grpo, ranks, micro_batch)
            grpo_rules.check_group_buffer(self.rollout, self.group, self.grpo, self.sentinel, self.buffer)
            grpo_rules.check_rewards(self.reward, self.sentinel, self.cluster)

    @property
    def stages(self) -> list[str]:
        """Return the stages to run, in order."""
        if not isinstance(self.stage, str | list):
            raise ConfigError(
                "stage", self.stage, "no stage", f"write one of {', '.join(STAGES)}, or a list as [ode,dmd]"
            )
        return [self.stage] if isinstance(self.stage, str) else self.stage

    @property
    def evaluated_stages(self) -> list[str]:
        """Return the stages whose student is evaluated while it trains; of one half of a run, none."""
        watched = self.evaluation.every and self.debug.half is None
        return [stage for stage in self.stages if stage in ("dmd", "grpo")] if watched else []

    @property
    def teacher_path(self) -> Path:
        """Return the teacher's weights: of this run if it trains or has trained one, else the given ones."""
        own = Path(self.run_dir, "teacher", "teacher.safetensors")
        return own if "teacher" in self.stages or own.is_file() else Path(self.teacher)

    @property
    def init_path(self) -> Path:
        """Return the student that stage dmd starts from: the given one, else this run's stage ode."""
        return Path(self.init) if self.init is not None else Path(self.run_dir, "ode", "student.safetensors")

    @property
    def grpo_init_path(self) -> Path:
        """Return the student that stage grpo starts from: the given one, else this run's, else the shipped one."""
        if self.grpo.init is not None:
            return Path(self.grpo.init)
        own = Path(self.run_dir, "dmd", "student.safetensors")
        return own if "dmd" in self.stages or own.is_file() else SHIPPED_STUDENT

    @property
    def grpo_init_source(self) -> Source:
        return Source(self.grpo_init_path, "grpo.init")

    @property
    def grpo_critic_source(self) -> Source:
        """Return the critic of stage grpo: the given one, else the one beside the student, else `base_source`.

        Beside student.safetensors lies critic.safetensors, beside student_uniform.safetensors critic_uniform.
        """
        if self.grpo.critic is not None:
            given = Path(self.grpo.critic)
            return Source(given, "grpo.critic", "critic" if is_torch_file(given) else None)
        student = self.grpo_init_path
        critic = student.with_name(student.name.replace("student", "critic"))
        exists = critic != student and (critic.is_file() or "dmd" in self.stages)
        return Source(critic, "grpo.critic") if exists else self.base_source

    def window_of(self, stage: str) -> WindowConfig:
        """Return the windows of a stage: those of groups have a burn-in of their own."""
        if stage == "grpo":
            return replace(self.window, burn_in_frames=self.group.burn_in_frames)
        return self.window

    def samples_per_update(self, stage: str) -> int:
        """Count the samples that the learner takes between two versions of the student, over all roles."""
        if stage == "grpo":
            return self.grpo.groups
        return self.dmd.batch_size * (1 + self.dmd.critic_updates)

    @property
    def saved_windows_path(self) -> Path:
        """Return where debug.rollout_only saves windows, and debug.learner_only finds them."""
        return Path(self.run_dir, "saved_windows") if self.debug.windows is None else Path(self.debug.windows)

    @property
    def device(self) -> "torch.device":
        """Return the device type of a learner rank: cuda if it has a GPU, else cpu."""
        import torch

        return torch.device("cuda" if self.cluster.rank_gpus else "cpu")

    @property
    def expected_device(self) -> str:
        """Return the device of `dry_run` and plan.py: the named one, else the one that the run computes on."""
        gpus = self.cluster.rank_gpus or self.cluster.actor_gpus or self.cluster.reward_gpus
        return self.device_name or ("h100" if gpus else "cpu")

    @property
    def teacher_wan(self) -> WanConfig:
        """Return the teacher's shape; its latents and texts are the student's."""
        return CONFIGS[self.teacher_model or self.student.model]

    @property
    def in_wan_world(self) -> bool:
        """Return True if latents come from Wan's VAE and texts from its encoder."""
        return self.student.in_wan_world

    @property
    def negative_prompt(self) -> str:
        """Return the text that the teacher's guidance leads away from."""
        if self.prompt.negative is not None:
            return self.prompt.negative
        return WAN_NEGATIVE_PROMPT if self.in_wan_world else ""

    @property
    def prompt_cache(self) -> Path:
        """Return where extended prompts are kept."""
        return Path(self.run_dir, "extended_prompts.jsonl") if self.prompt.cache is None else Path(self.prompt.cache)

    @property
    def teacher_source(self) -> Source:
        return Source(self.teacher_path, "teacher")

    @property
    def base_source(self) -> Source:
        """Return the network that student (stage ode) and critic start from."""
        return self.teacher_source if self.base is None else Source(Path(self.base), "base")

    @property
    def earliest_fork(self) -> int:
        """Return the first frame that stage grpo forks from: windows of its DMD loss end with the members."""
        return max(0, self.window.frames - self.group.frames) if self.grpo.dmd_weight else 0

    @property
    def init_source(self) -> Source:
        return Source(self.init_path, "init")
