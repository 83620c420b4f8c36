"""Keys of the three training stages and of the learner that runs them. Imports no torch: help must be quick."""

from dataclasses import dataclass
from pathlib import Path

from models.keys import DTYPES, key, require_choice, require_positive, require_share

NOISINGS = ("recorded", "fresh")
"""Backward noise initialisations."""


@dataclass(kw_only=True)
class PretrainConfig:
    """Stage `teacher`: flow matching on real videos of the tiny world."""

    steps: int = key(5000, "updates")
    batch_size: int = key(16, "videos per update")
    lr: float = key(1e-2, "peak learning rate of Muon, on the blocks' matrices (warm-up, cosine to zero)")
    adamw_lr: float = key(3e-3, "peak learning rate of AdamW, on everything else")
    shift: float = key(2.0, "shift of the uniform noise level")
    prompt_drop: float = key(0.1, "share of videos trained without their prompt, for guidance")
    ema_decay: float = key(0.995, "decay of the averaged weights, which are what is saved")

    def __post_init__(self):
        require_positive("pretrain", self, "steps", "batch_size", "lr", "adamw_lr", "shift")
        require_share("pretrain", self, "prompt_drop", "ema_decay")


@dataclass(kw_only=True)
class OdeConfig:
    """Stage `ode`: the few-step causal student regresses onto teacher trajectories."""

    steps: int = key(300, "updates")
    pairs: int = key(256, "teacher trajectories, sampled by the rollout pool")
    first_pairs: int = key(48, "trajectories to wait for before the first update; the rest arrive while training")
    batch_size: int = key(12, "trajectories per update")
    lr: float = key(1e-2, "peak learning rate of Muon, on the blocks' matrices (warm-up, cosine to zero)")
    adamw_lr: float = key(3e-3, "peak learning rate of AdamW, on everything else")
    solver_steps: int = key(20, "Euler steps of the teacher, beside the student's own levels")
    guidance: float = key(1.5, "teacher guidance, standard form")
    dtype: str = key("float32", "trajectories on disk: float32 or bfloat16, half of it (Wan: 21 MB each)")
    shard_mb: int = key(1, "largest file of trajectories, in MB; what is not yet a whole one waits in memory")
    pairs_dir: str | None = key(
        None, "trajectories that another run made (its folder ode_pairs), only read; without, made in run_dir/ode_pairs"
    )

    def __post_init__(self):
        names = ("steps", "pairs", "first_pairs", "batch_size", "lr", "adamw_lr", "solver_steps", "shard_mb")
        require_positive("ode", self, *names)
        require_choice("ode", self, "dtype", DTYPES)

    def pairs_at(self, step: int) -> int:
        """Trajectories that must have arrived before update `step`: the first ones, then one more each update."""
        return min(self.pairs, self.first_pairs + step)


@dataclass(kw_only=True)
class DmdConfig:
    """Stage `dmd`: extended distribution matching distillation on windows of long rollouts."""

    steps: int = key(125, "student updates")
    batch_size: int = key(8, "windows per update")
    critic_updates: int = key(3, "critic updates per student update (Wan: 5)")
    student_lr: float = key(1e-4, "learning rate of the student (Wan: 2e-6)")
    critic_lr: float = key(2e-4, "learning rate of the critic (Wan: 4e-7)")
    beta1: float = key(0.0, "AdamW beta1")
    beta2: float = key(0.99, "AdamW beta2 (Wan: 0.999)")
    weight_decay: float = key(0.01, "AdamW weight decay")
    grad_clip: float = key(1.0, "largest gradient norm (Wan: 10)")
    guidance: float = key(1.25, "teacher guidance, standard form (Wan: 4.0, which Self-Forcing writes 3.0)")
    score_shift: float = key(3.0, "shift of the noise level at which scores are compared (Wan: 5)")
    score_min: float = key(0.02, "lowest noise level at which scores are compared")
    score_max: float = key(0.98, "highest noise level at which scores are compared")
    noising: str = key("recorded", "backward noise initialisation: recorded (paper, Eq. 1) or fresh")
    replay: str = key("masked", "student's x0: masked (one pass) or blockwise (regenerated block by block, slower)")
    ema_decay: float = key(0.98, "decay of the averaged student (Wan: 0.99)")
    ema_start: int = key(0, "student update at which averaging starts")

    def __post_init__(self):
        require_choice("dmd", self, "noising", NOISINGS)
        if self.replay not in ("masked", "blockwise"):
            raise ValueError(f'dmd.replay is "{self.replay}"; set it to masked or blockwise')
        if self.replay == "blockwise" and self.noising == "fresh":
            raise ValueError(
                "dmd.replay=blockwise makes its own inputs from the rollout's noise; set dmd.noising=recorded"
            )
        positive = (
            "steps",
            "batch_size",
            "critic_updates",
            "student_lr",
            "critic_lr",
            "grad_clip",
            "score_shift",
        )
        require_positive("dmd", self, *positive)
        require_share("dmd", self, "beta1", "beta2", "weight_decay", "ema_decay")
        if not 0 < self.score_min < self.score_max < 1:
            raise ValueError(
                f"dmd.score_min = {self.score_min} and dmd.score_max = {self.score_max} must lie in (0, 1)"
            )


@dataclass(kw_only=True)
class LearnerConfig:
    """How the learner computes; what it computes stays the same but for rounding (and but for LoRA)."""

    micro_batch: int | None = key(None, "windows per forward pass and rank; without, a rank's whole share at once")
    checkpoint_activations: bool = key(False, "keep only each block's input and compute the block again going back")
    compile: bool = key(False, "torch.compile, block by block")
    dtype: str = key("float32", "computation of student and critic: float32 or bfloat16 (weights stay float32)")
    teacher_dtype: str = key("float32", "weights and computation of the frozen teacher: float32 or bfloat16")
    teacher_offload: bool = key(False, "keep the teacher's shards in CPU memory between passes (GPUs only)")
    lora_rank: int | None = key(
        None, "stages dmd and grpo train adapters of this rank on student and critic; without, all weights"
    )
    lora_alpha: float = key(16.0, "adapters count lora_alpha / lora_rank")

    def __post_init__(self):
        for name in ("dtype", "teacher_dtype"):
            require_choice("learner", self, name, DTYPES)
        for name in ("micro_batch", "lora_rank"):
            if getattr(self, name) is not None:
                require_positive("learner", self, name)
        require_positive("learner", self, "lora_alpha")

    @property
    def lora_scale(self) -> float:
        """What adapters count; 0 where there are none."""
        return 0.0 if self.lora_rank is None else self.lora_alpha / self.lora_rank


@dataclass(frozen=True)
class Source:
    """Where a network's weights come from: a file, and the configuration key to change if they do not fit."""

    path: Path
    key: str
    part: str | None = None
    """Which network of a `.pt` that holds several; without, the generator."""
