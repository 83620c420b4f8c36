"""The whole configuration of a run: the keys of every part, and the rules that hold between them.

Imports no torch: help must be quick.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from actors.prompt_config import PromptConfig
from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.window_law import Priority, parse_law, window_starts
from cluster.config import grpo_rules
from cluster.config.autoscale_config import AutoscaleConfig, check_pool
from cluster.config.buffer_config import BufferConfig
from cluster.config.checkpoint_config import CheckpointConfig
from cluster.config.cluster_config import ClusterConfig, DebugConfig, WandbConfig
from cluster.config.devices import DEVICES
from learner.policy_config import GrpoConfig
from learner.stage_config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig, Source, check_batch
from models.keys import key
from models.network_config import CONFIGS, StudentConfig, WanConfig
from models.text.negative_prompt import WAN_NEGATIVE_PROMPT
from models.user_paths import is_pickle
from models.worlds.world_config import SHIPPED_STUDENT, WorldConfig
from rewards.reward_config import RewardConfig
from rewards.sentinels import SentinelConfig

if TYPE_CHECKING:
    import torch

STAGES = ("teacher", "ode", "dmd", "grpo")


@dataclass(kw_only=True)
class Config(WorldConfig):
    """A run."""

    stage: Any = key(["ode", "dmd"], "stage or list of stages to run in order: " + ", ".join(STAGES))
    run_dir: str = key("runs/tiny", "folder of the run; on a cluster an absolute path that all nodes share")
    seed: int = key(0, "seed of everything that is drawn")
    teacher: str = key("assets/tiny/teacher.safetensors", "weights of the teacher")
    teacher_model: str | None = key(None, "network of the teacher; without, student.model")
    base: str | None = key(None, "weights that student (stage ode) and critic start from; without, the teacher's")
    init: str | None = key(None, "student weights that stage dmd starts from, in place of stage ode")
    prompts: str | None = key(None, "training prompts: a txt, jsonl or parquet file; without, the tiny world's")
    dry_run: bool = key(False, "print sizes, memory, operations and expected seconds, and leave: nothing is started")
    device_name: str | None = key(
        None, f"device that dry_run expects: {', '.join(DEVICES)}; without, h100 for a run that has GPUs, else cpu"
    )
    student: StudentConfig = field(default_factory=StudentConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    ode: OdeConfig = field(default_factory=OdeConfig)
    dmd: DmdConfig = field(default_factory=DmdConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    group: GroupConfig = field(default_factory=GroupConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sentinel: SentinelConfig = field(default_factory=SentinelConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    autoscale: AutoscaleConfig = field(default_factory=AutoscaleConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)

    def __post_init__(self):
        self._check_stages()
        self._check_teacher()
        self._check_frames()
        self._check_batches()
        self._check_buffer()
        check_pool(self.autoscale, self.cluster, self.debug.half)
        if "grpo" in self.stages:
            grpo_rules.check(self)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or above")
        if self.expected_device not in DEVICES:
            raise ValueError(f'device_name is "{self.device_name}"; set it to one of {", ".join(DEVICES)}')

    @property
    def stages(self) -> list[str]:
        """The stages to run, in order."""
        if not isinstance(self.stage, str | list):
            raise ValueError(f"stage is {self.stage}; set it to one of {', '.join(STAGES)}, or a list like [ode,dmd]")
        return [self.stage] if isinstance(self.stage, str) else self.stage

    @property
    def teacher_path(self) -> Path:
        """The teacher's weights: of this run if it trains or has trained one, else the given ones."""
        own = Path(self.run_dir, "teacher", "teacher.safetensors")
        return own if "teacher" in self.stages or own.is_file() else Path(self.teacher)

    @property
    def init_path(self) -> Path:
        """The student that stage dmd starts from: the given one, else this run's stage ode."""
        return Path(self.init) if self.init is not None else Path(self.run_dir, "ode", "student.safetensors")

    @property
    def grpo_init_path(self) -> Path:
        """The student that stage grpo starts from: the given one, else this run's stage dmd, else the shipped one."""
        if self.grpo.init is not None:
            return Path(self.grpo.init)
        own = Path(self.run_dir, "dmd", "student.safetensors")
        return own if "dmd" in self.stages or own.is_file() else SHIPPED_STUDENT

    @property
    def grpo_init_source(self) -> Source:
        return Source(self.grpo_init_path, "grpo.init")

    @property
    def grpo_critic_source(self) -> Source:
        """The critic of stage grpo: the given one, else the one beside the student, else what every critic starts from.

        Beside student.safetensors lies critic.safetensors, beside student_uniform.safetensors critic_uniform.
        """
        if self.grpo.critic is not None:
            given = Path(self.grpo.critic)
            return Source(given, "grpo.critic", "critic" if is_pickle(given) else None)
        student = self.grpo_init_path
        beside = student.with_name(student.name.replace("student", "critic"))
        known = beside != student and (beside.is_file() or "dmd" in self.stages)
        return Source(beside, "grpo.critic") if known else self.base_source

    def window_of(self, stage: str) -> WindowConfig:
        """The windows of a stage: those of groups have a burn-in of their own."""
        if stage == "grpo":
            return replace(self.window, burn_in_frames=self.group.burn_in_frames)
        return self.window

    def samples_per_update(self, stage: str) -> int:
        """How many samples the learner takes between two versions of the student, over all roles."""
        if stage == "grpo":
            return self.grpo.groups
        return self.dmd.batch_size * (1 + self.dmd.critic_updates)

    @property
    def saved_windows_path(self) -> Path:
        """Where debug.rollout_only saves windows, and debug.learner_only finds them."""
        return Path(self.run_dir, "saved_windows") if self.debug.windows is None else Path(self.debug.windows)

    @property
    def device(self) -> "torch.device":
        """Where a learner rank computes: its GPU if it has one."""
        import torch

        return torch.device("cuda" if self.cluster.rank_gpus else "cpu")

    @property
    def expected_device(self) -> str:
        """What `dry_run` and plan.py reckon with: the named device, else what the run's processes compute on."""
        gpus = self.cluster.rank_gpus or self.cluster.actor_gpus or self.cluster.reward_gpus
        return self.device_name or ("h100" if gpus else "cpu")

    @property
    def teacher_wan(self) -> WanConfig:
        """The teacher's shape; its latents and texts are the student's."""
        return CONFIGS[self.teacher_model or self.student.model]

    @property
    def in_wan_world(self) -> bool:
        """See `StudentConfig.in_wan_world`."""
        return self.student.in_wan_world

    @property
    def negative_prompt(self) -> str:
        """What the teacher's guidance leads away from."""
        if self.prompt.negative is not None:
            return self.prompt.negative
        return WAN_NEGATIVE_PROMPT if self.in_wan_world else ""

    @property
    def prompt_cache(self) -> Path:
        """Where extended prompts are kept."""
        return Path(self.run_dir, "extended_prompts.jsonl") if self.prompt.cache is None else Path(self.prompt.cache)

    @property
    def teacher_source(self) -> Source:
        return Source(self.teacher_path, "teacher")

    @property
    def base_source(self) -> Source:
        """What student (stage ode) and critic start from."""
        return self.teacher_source if self.base is None else Source(Path(self.base), "base")

    @property
    def earliest_fork(self) -> int:
        """Frame from which stage grpo forks: the windows of its extended DMD loss end with the members' last frames."""
        return max(0, self.window.frames - self.group.frames) if self.grpo.dmd_weight else 0

    @property
    def init_source(self) -> Source:
        return Source(self.init_path, "init")

    def _check_teacher(self) -> None:
        if self.teacher_model is not None and self.teacher_model not in CONFIGS:
            raise ValueError(
                f'no network is called "{self.teacher_model}"; set teacher_model to one of {", ".join(CONFIGS)}'
            )
        teacher, student = self.teacher_wan, self.student.wan
        for name in ("in_channels", "text_dim", "text_len"):
            if getattr(teacher, name) != getattr(student, name):
                raise ValueError(
                    f"teacher_model={self.teacher_model} has {name} {getattr(teacher, name)} and student.model="
                    f"{self.student.model} has {getattr(student, name)}; choose networks of one world"
                )
        if teacher != student and self.base is None and self.stages != ["teacher"]:
            raise ValueError(
                f"base is not given, and weights of teacher_model={self.teacher_model} do not fit student.model="
                f"{self.student.model}; set base to weights of the student's size"
            )

    def _check_stages(self) -> None:
        if not self.run_dir:
            raise ValueError("run_dir is empty; give the path of a folder")
        if not self.stages:
            raise ValueError(f"stage is empty; name one of {', '.join(STAGES)}")
        for stage in self.stages:
            if stage not in STAGES:
                raise ValueError(f'stage "{stage}" is unknown; set stage to one of {", ".join(STAGES)}, or a list')
        if self.stages != [stage for stage in STAGES if stage in self.stages]:
            raise ValueError(f"stage is {self.stages}; stages run in the order {', '.join(STAGES)}, each once")
        if self.debug.half is not None and self.stages != ["dmd"]:
            raise ValueError(
                f"debug.{self.debug.half} is a half of stage dmd, and stage is {self.stages}; set stage=dmd"
            )
        if self.init is not None and self.stages == ["grpo"]:
            raise ValueError("init is given, and it is stage dmd's; give the student of stage grpo as grpo.init")
        if self.grpo.init is not None and {"dmd", "grpo"} <= set(self.stages):
            raise ValueError(
                "grpo.init is given and stage dmd would make another student; set stage=grpo, or leave grpo.init out"
            )
        if self.init is not None and "ode" in self.stages:
            raise ValueError("init is given and stage ode would make another student; set stage=dmd, or leave init out")

    def _check_frames(self) -> None:
        student, block = self.student, self.student.block_frames
        for name, frames in (
            ("rollout.frames", self.rollout.frames),
            ("window.frames", self.window.frames),
            ("window.burn_in_frames", self.window.burn_in_frames),
        ):
            if frames % block:
                raise ValueError(f"{name} is {frames}, no multiple of student.block_frames = {block}; change {name}")
        if self.window.frames > self.rollout.frames:
            raise ValueError(
                f"window.frames = {self.window.frames} is longer than rollout.frames = {self.rollout.frames}; raise "
                "rollout.frames or shorten the window"
            )
        if self.window.frames > student.horizon_frames:
            raise ValueError(
                f"window.frames = {self.window.frames} is longer than student.horizon_frames = "
                f"{student.horizon_frames}, all that the teacher can judge; shorten the window"
            )
        if student.sink_frames:
            raise ValueError(
                f"student.sink_frames is {student.sink_frames}; training rolls without a sink: set it to 0"
            )
        for _, frames in self.rollout.curriculum:
            if frames < self.window.frames or frames % block:
                raise ValueError(
                    f"rollout.curriculum has a horizon of {frames} frames; it must be a multiple of "
                    f"student.block_frames = {block} that holds window.frames = {self.window.frames}"
                )
        law = parse_law(self.window.law)
        if isinstance(law, Priority) and "grpo" in self.stages:
            raise ValueError(
                f"window.law={self.window.law} is for stage dmd, and stage is {self.stages}; run grpo with another law"
            )
        for frames in {self.rollout.frames, *(step[1] for step in self.rollout.curriculum)}:
            starts = window_starts(frames, self.window.frames, block)
            law(starts, self.window.frames, student.horizon_frames, numpy.random.default_rng(0))

    def _check_batches(self) -> None:
        ranks, micro_batch = self.cluster.learner_ranks, self.learner.micro_batch
        sizes = {"teacher": "pretrain.batch_size", "ode": "ode.batch_size", "dmd": "dmd.batch_size"}
        for name in (sizes[stage] for stage in self.stages if stage in sizes):
            part, _, size = name.partition(".")
            check_batch(name, getattr(getattr(self, part), size), ranks, micro_batch)
        if self.cluster.kind == "inline" and self.learner.dtype != "float32":
            raise ValueError(f"learner.dtype={self.learner.dtype} needs cluster=ray; set it, or learner.dtype=float32")
        if self.learner.teacher_offload and not self.cluster.rank_gpus:
            raise ValueError(
                "learner.teacher_offload=true needs learner ranks on GPUs; set cluster.rank_gpus=1, or leave it"
            )

    def _check_buffer(self) -> None:
        """Only stage dmd takes so many windows from one dispatch that the buffer could be too small for both."""
        if "dmd" not in self.stages:
            return
        rollouts = self.rollout.batch * self.rollout.windows
        updates = self.samples_per_update("dmd")
        if self.buffer.windows < rollouts + updates:
            raise ValueError(
                f"buffer.windows = {self.buffer.windows} cannot hold one dispatch ({rollouts}) and one step ({updates}"
                f"); raise it to {rollouts + updates}"
            )
        if self.buffer.policy == "wait" and self.buffer.max_age * updates < rollouts + updates:
            needed = -(-(rollouts + updates) // updates)
            raise ValueError(
                f"buffer.max_age = {self.buffer.max_age} updates of {updates} windows cannot hold one dispatch "
                f"({rollouts}) and one step with buffer.policy=wait; raise it to {needed}, or choose another policy"
            )
