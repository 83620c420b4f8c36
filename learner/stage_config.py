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

    lr: float = key(1e-4, "learning rate of the student", gt=0)
    beta1: float = key(0.0, "AdamW beta1", ge=0, lt=1)
    beta2: float = key(0.99, "AdamW beta2", ge=0, lt=1)
    weight_decay: float = key(0.01, "AdamW weight decay", ge=0, lt=1)
    grad_clip: float = key(1.0, "largest gradient norm", gt=0)


@dataclass(kw_only=True)
class PretrainConfig(KeyGroup, group="pretrain"):
    """Configures stage `teacher`: flow matching on real videos of the tiny world."""

    steps: int = key(5000, "updates", ge=1)
    batch_size: int = key(16, "videos per update", ge=1, le=1_000_000)
    optimizer: MuonConfig = part(MuonConfig)
    shift: float = key(2.0, "shift of the uniform noise level", gt=0)
    prompt_drop: float = key(0.1, "share of videos trained without their prompt, for guidance", ge=0, lt=1)
    ema_decay: float = key(0.995, "decay of the averaged weights, the result of the stage", ge=0, lt=1)


@dataclass(kw_only=True)
class OdeConfig(KeyGroup, group="ode"):
    """Configures stage `ode`: the few-step causal student regresses onto teacher trajectories."""

    steps: int = key(300, "updates", ge=1)
    pairs: int = key(256, "teacher trajectories, sampled by the rollout pool", ge=1)
    first_pairs: int = key(48, "trajectories before the first update; the rest arrive during training", ge=1)
    batch_size: int = key(12, "trajectories per update", ge=1, le=1_000_000)
    optimizer: MuonConfig = part(MuonConfig)
    solver_steps: int = key(20, "Euler steps of the teacher, besides the student's own levels", ge=1, le=100_000)
    guidance: float = key(1.5, "guidance scale of the teacher, standard form")
    dtype: str = key("float32", "type of trajectories on disk: float32 or bfloat16", choices=DTYPES)
    shard_mb: int = key(1, "largest file of trajectories, in MB", ge=1, resumable=True)
    pairs_dir: str | None = key(None, "folder ode_pairs of another run, read only; none: made in run_dir/ode_pairs")

    def pairs_at(self, step: int) -> int:
        """Count the trajectories that must have arrived before update `step`: the first ones, then one each update."""
        return min(self.pairs, self.first_pairs + step)


@dataclass(kw_only=True)
class DmdConfig(KeyGroup, group="dmd"):
    """Configures stage `dmd`: extended distribution matching distillation on windows of long rollouts."""

    steps: int = key(125, "student updates", ge=1)
    batch_size: int = key(8, "windows per update", ge=1, le=1_000_000)
    critic_updates: int = key(3, "critic updates per student update", ge=1, le=10_000)
    optimizer: AdamWConfig = part(AdamWConfig)
    critic_lr: float = key(2e-4, "learning rate of the critic; else its optimiser is the student's", gt=0)
    guidance: float = key(1.25, "guidance scale of the teacher, standard form")
    score_shift: float = key(3.0, "shift of the noise level at which scores are compared", gt=0)
    score_min: float = key(0.02, "lowest noise level at which scores are compared", gt=0, lt=1)
    score_max: float = key(0.98, "highest noise level at which scores are compared", gt=0, lt=1)
    noising: str = key("recorded", "backward noise initialisation: recorded (paper, Eq. 1) or fresh", choices=NOISINGS)
    replay: str = key(
        "masked",
        "the student's x0: masked (one pass) or blockwise (regenerated block by block, slower)",
        choices=("masked", "blockwise"),
    )
    ema_decay: float = key(0.98, "decay of the averaged student", ge=0, lt=1)
    ema_start: int = key(0, "student update at which averaging starts")

    def __post_init__(self):
        super().__post_init__()
        if self.replay == "blockwise" and self.noising == "fresh":
            raise ConfigError(
                "dmd.noising", "fresh", "dmd.replay=blockwise starts from recorded noise", "write dmd.noising=recorded"
            )
        if self.score_min >= self.score_max:
            raise ConfigError(
                "dmd.score_min", self.score_min, f"not below dmd.score_max={self.score_max}", "lower dmd.score_min"
            )


@dataclass(kw_only=True)
class LearnerConfig(KeyGroup, group="learner"):
    """Configures memory and precision of the learner; except for LoRA, results change by rounding only."""

    micro_batch: int | None = key(None, "windows per forward pass and rank; none: a rank's whole share", ge=1)
    checkpoint_activations: bool = key(False, "keep each block's input only, and compute the block again going back")
    compile: bool = key(False, "torch.compile, block by block")
    dtype: str = key(
        "float32", "computation of student and critic: float32 or bfloat16 (weights stay float32)", choices=DTYPES
    )
    teacher_dtype: str = key(
        "float32", "weights and computation of the frozen teacher: float32 or bfloat16", choices=DTYPES
    )
    teacher_offload: bool = key(False, "keep the teacher's shards in CPU memory between passes (GPUs only)")
    lora_rank: int | None = key(
        None, "rank of adapters on student and critic, in stages dmd and grpo; none: all weights train", ge=1, le=65_536
    )
    lora_alpha: float = key(16.0, "scale of adapters, times lora_rank", gt=0)

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
