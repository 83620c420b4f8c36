"""Declare the keys of the rollouts, and of the windows cut from them."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import DTYPES, KeyGroup, key

_MOST_FRAMES = 100_000
"""Latent frames of about seven hours."""


@dataclass(kw_only=True)
class RolloutConfig(KeyGroup, group="rollout"):
    """Configures the student's long rollouts during training."""

    frames: int = key(96, "horizon N of a training rollout, in latent frames", ge=1, le=_MOST_FRAMES)
    batch: int = key(8, "videos that one actor makes together", ge=1, le=65_536)
    windows: int = key(
        8, "training windows cut from each rollout, for student and critic updates together", ge=1, le=65_536
    )
    horizon: str = key(
        "fixed",
        "fixed (every rollout plans `frames`) or sampled (evenly from one window to `frames`)",
        choices=("fixed", "sampled"),
    )
    curriculum: list[list[int]] = key([], "horizons by student update, as [[0,24],[50,48]]; []: always `frames`")
    dtype: str = key(
        "float32",
        "precision of rollouts of the student and, in stage ode, of the teacher: float32 or bfloat16",
        choices=DTYPES,
    )
    compile: bool = key(
        False, "compile the student's blocks with torch.compile for rollouts (GPUs; the first videos wait some minutes)"
    )
    continued: bool = key(True, "continue a lost actor's videos from their streamed latents, instead of anew")

    def __post_init__(self):
        super().__post_init__()
        steps = self.curriculum
        if any(len(step) != 2 or step[1] > self.frames for step in steps) or (
            steps and (steps[0][0] != 0 or [s[0] for s in steps] != sorted({s[0] for s in steps}))
        ):
            raise ConfigError(
                "rollout.curriculum",
                steps,
                f"no [update, frames] pairs in ascending order, from update 0, up to rollout.frames={self.frames}",
                "write it as [[0,24],[50,48]]",
            )


@dataclass(kw_only=True)
class WindowConfig(KeyGroup, group="window"):
    """Configures the windows of rollouts that the losses see."""

    law: str = key(
        "uniform",
        "distribution of window starts: uniform, stratified, beta(a, b), prefix(h), weighted(w, ...), priority(share) "
        "or a dotted path",
    )
    frames: int = key(12, "length K of a training window, in latent frames", ge=1, le=_MOST_FRAMES)
    burn_in_frames: int = key(
        9, "clean latent frames before a window's context that warm the rebuilt cache", ge=0, le=_MOST_FRAMES
    )
    gradient_step: str = key(
        "last", "denoising step with gradient in stage dmd: last, or drawn for each window", choices=("last", "drawn")
    )


@dataclass(kw_only=True)
class GroupConfig(KeyGroup, group="group"):
    """Configures the forks of long rollouts into groups (stage `grpo`). The paper leaves all of this open."""

    members: int = key(8, "members G of a group: continuations of one past", ge=2, le=65_536)
    frames: int = key(12, "length of each member of a group, in latent frames", ge=1, le=_MOST_FRAMES)
    forks: int = key(2, "groups per rollout, each forked at a drawn start", ge=1, le=65_536)
    burn_in_frames: int = key(
        27, "clean latent frames before a group's context that warm the rebuilt cache", ge=0, le=_MOST_FRAMES
    )
    transitions: str = key(
        "one", "denoising transitions trained in stage grpo: one, drawn for each group, or all", choices=("one", "all")
    )
    transition_shares: list[float] = key(
        [], "with group.transitions=one: relative frequency of each transition, noisiest first; []: equal", ge=0
    )
    noise: str = key(
        "one",
        "noise that members of a group share: one (all but that of the trained transition), first (the first of each "
        "block) or fresh (none)",
        choices=("one", "first", "fresh"),
    )
    coarse: float = key(
        1.0,
        "share of spatial frequencies, from the lowest, in which the noise of a group's members differs",
        gt=0,
        le=1,
    )
    antithetic: bool = key(True, "draw the noise of a group's members in pairs of opposite sign")

    def __post_init__(self):
        super().__post_init__()
        if self.antithetic and self.members % 2:
            raise ConfigError(
                "group.members",
                self.members,
                "odd, and group.antithetic pairs members",
                f"write group.members={self.members + 1}, or group.antithetic=false",
            )
        shares = self.transition_shares
        if shares and not any(shares):
            raise ConfigError("group.transition_shares", shares, "all 0", "write one above 0")
        if shares and self.transitions == "all":
            raise ConfigError(
                "group.transition_shares", shares, "group.transitions=all draws none", "leave one of them out"
            )
        if self.noise == "one" and self.transitions == "all":
            raise ConfigError(
                "group.noise",
                "one",
                "it draws the noise of one transition only",
                "write group.transitions=one, or group.noise=first",
            )
