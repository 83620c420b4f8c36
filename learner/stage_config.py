"""Declare the keys of the distilling stages, and of their learner."""

from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from models.keys import DTYPES, KeyGroup, key, part

NOISINGS = ("recorded", "fresh")
"""Backward noise initialisations."""


@dataclass(kw_only=True)
class MuonConfig:
    """Configures an optimiser for learning from data: Muon, with warm-up and cosine decay to zero."""

    lr: float = key(1e-2, "peak learning rate of Muon, on the blocks' matrices", gt=0)
    adamw_lr: float = key(3e-3, "peak learning rate of AdamW, on all other weights", gt=0)


@dataclass(kw_only=True)
class AdamWConfig:
    """Configures an optimiser for distillation: AdamW, with its gradient clip."""

    lr: float = key(1e-4, "learning rate of AdamW for the student", gt=0)
    beta1: float = key(0.0, "beta1 of AdamW, the decay of its gradient average", ge=0, lt=1)
    beta2: float = key(0.99, "beta2 of AdamW, the decay of its squared-gradient average", ge=0, lt=1)
    weight_decay: float = key(0.01, "weight decay of AdamW", ge=0, lt=1)
    grad_clip: float = key(1.0, "largest norm of the gradient; larger ones are clipped", gt=0)


@dataclass(kw_only=True)
class PretrainConfig(KeyGroup, group="pretrain"):
    """Configures stage `teacher`: flow matching on real videos of the tiny world."""

    steps: int = key(5000, "updates of stage teacher", ge=1)
    batch_size: int = key(16, "real videos per update of stage teacher", ge=1, le=1_000_000)
    optimizer: MuonConfig = part(MuonConfig)
    shift: float = key(2.0, "shift of the uniformly drawn noise level in stage teacher", gt=0)
    prompt_drop: float = key(
        0.1, "share of videos that stage teacher trains on without their prompt, for guidance", ge=0, lt=1
    )
    ema_decay: float = key(0.995, "decay per update of the averaged weights, the result of stage teacher", ge=0, lt=1)


@dataclass(kw_only=True)
class OdeConfig(KeyGroup, group="ode"):
    """Configures stage `ode`: the few-step causal student regresses onto teacher trajectories."""

    steps: int = key(300, "updates of stage ode", ge=1)
    pairs: int = key(256, "teacher trajectories, sampled by the rollout pool", ge=1)
    first_pairs: int = key(48, "trajectories before the first update; the rest arrive during training", ge=1)
    batch_size: int = key(12, "teacher trajectories per update of stage ode", ge=1, le=1_000_000)
    optimizer: MuonConfig = part(MuonConfig)
    context_gradient: bool = key(
        False, "train stage ode through the keys and values of clean frames too, which the student itself writes"
    )
    solver_steps: int = key(20, "Euler steps of the teacher, besides the student's own levels", ge=1, le=100_000)
    guidance: float = key(1.5, "classifier-free guidance scale of the teacher in stage ode, standard form")
    dtype: str = key("float32", "type of trajectories on disk: float32 or bfloat16", choices=DTYPES)
    shard_mb: int = key(1, "largest file of teacher trajectories, in MB", ge=1, resumable=True)
    pairs_dir: str | None = key(None, "folder ode_pairs of another run, read only; none: made in run_dir/ode_pairs")

    def pairs_at(self, step: int) -> int:
        """Count the trajectories that must have arrived before update `step`: the first ones, then one each update."""
        return min(self.pairs, self.first_pairs + step)


@dataclass(kw_only=True)
class DmdConfig(KeyGroup, group="dmd"):
    """Configures stage `dmd`: extended distribution matching distillation on windows of long rollouts."""

    steps: int = key(125, "student updates of stage dmd", ge=1)
    batch_size: int = key(8, "windows per student or critic update of stage dmd", ge=1, le=1_000_000)
    critic_updates: int = key(3, "critic updates per student update in stage dmd", ge=1, le=10_000)
    optimizer: AdamWConfig = part(AdamWConfig)
    critic_lr: float = key(2e-4, "learning rate of the critic; its other optimiser keys are the student's", gt=0)
    guidance: float = key(1.25, "classifier-free guidance scale of the teacher in stage dmd, standard form")
    score_shift: float = key(3.0, "shift of the noise level at which teacher and critic are compared", gt=0)
    score_min: float = key(0.02, "lowest noise level at which teacher and critic are compared, from 0 to 1", gt=0, lt=1)
    score_max: float = key(
        0.98, "highest noise level at which teacher and critic are compared, from 0 to 1", gt=0, lt=1
    )
    noising: str = key(
        "recorded",
        "noisy inputs of the student's replay in stage dmd: recorded in the rollout (paper, Eq. 1) or fresh",
        choices=NOISINGS,
    )
    replay: str = key(
        "masked",
        "computation of the student's x0: masked (one pass) or blockwise (block by block, slower)",
        choices=("masked", "blockwise"),
    )
    context_gradient: bool = key(
        False,
        "train stage dmd through the keys and values of clean frames too, which the student itself writes",
    )
    ema_decay: float = key(0.98, "decay per update of the averaged student in stage dmd", ge=0, lt=1)
    ema_start: int = key(0, "student update of stage dmd at which averaging starts", ge=0)

    def __post_init__(self):
        super().__post_init__()
        if self.replay == "blockwise" and self.noising == "fresh":
            raise ConfigError(
                "dmd.noising", "fresh", "dmd.replay=blockwise starts from recorded noise", "write dmd.noising=recorded"
            )
        if self.replay == "blockwise" and self.context_gradient:
            problem = "dmd.replay=blockwise writes its cache without gradient"
            raise ConfigError("dmd.context_gradient", True, problem, "write dmd.replay=masked")
        if self.score_min >= self.score_max:
            raise ConfigError(
                "dmd.score_min", self.score_min, f"not below dmd.score_max={self.score_max}", "lower dmd.score_min"
            )


@dataclass(kw_only=True)
class LearnerConfig(KeyGroup, group="learner"):
    """Configures memory and precision of the learner; except for LoRA, results change by rounding only."""

    micro_batch: int | None = key(
        None, "windows per forward pass on each learner rank; none: the rank's whole share", ge=1
    )
    checkpoint_activations: bool = key(
        False, "activation checkpointing: keep each block's input only, and recompute the block in the backward pass"
    )
    keep_attention: bool = key(
        False,
        "keep the results of self-attention too, which then are not recomputed; takes effect with"
        " learner.checkpoint_activations=true",
    )
    compile: bool = key(False, "compile the learner's networks with torch.compile, block by block")
    dtype: str = key(
        "float32",
        "precision of student and critic in the learner: float32 or bfloat16 (weights stay float32)",
        choices=DTYPES,
    )
    teacher_dtype: str = key(
        "float32", "precision of the frozen teacher and its weights: float32 or bfloat16", choices=DTYPES
    )
    teacher_offload: bool = key(False, "keep the frozen teacher's shards in CPU memory between passes (GPUs only)")
    lora_rank: int | None = key(
        None,
        "rank of LoRA adapters on student and critic, in stages dmd and grpo; none: train all weights",
        ge=1,
        le=65_536,
    )
    lora_alpha: float = key(16.0, "alpha of LoRA adapters: their scale times learner.lora_rank", gt=0)

    @property
    def lora_scale(self) -> float:
        """Return the factor on the product of an adapter's matrices; 0 without adapters."""
        return 0.0 if self.lora_rank is None else self.lora_alpha / self.lora_rank


@dataclass(frozen=True)
class Source:
    """Names the file of a network's weights, and the key to change if they do not fit."""

    path: Path
    key: str
    part: str | None = None
    """Name of one network in a `.pt` file of several; None for the generator."""
