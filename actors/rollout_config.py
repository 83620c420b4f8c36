"""Keys of the rollouts and of the windows cut from them."""

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
    windows: int = key(8, "windows of each rollout, for student and critic updates together", ge=1, le=65_536)
    horizon: str = key(
        "fixed",
        "fixed (every rollout plans `frames`) or sampled (evenly from one window to `frames`)",
        choices=("fixed", "sampled"),
    )
    curriculum: list[list[int]] = key([], "horizons by student update, as [[0,24],[50,48]]; []: always `frames`")
    dtype: str = key(
        "float32", "computation of student and, in stage ode, teacher: float32 or bfloat16", choices=DTYPES
    )
    compile: bool = key(False, "torch.compile of the blocks (GPUs; the first videos wait for it, for minutes)")
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
    frames: int = key(12, "window length K, in latent frames", ge=1, le=_MOST_FRAMES)
    burn_in_frames: int = key(9, "clean frames before the context that warm the rebuilt cache", ge=0, le=_MOST_FRAMES)
    gradient_step: str = key(
        "last", "denoising step with gradient: last, or drawn for each window", choices=("last", "drawn")
    )


@dataclass(kw_only=True)
class GroupConfig(KeyGroup, group="group"):
    """Configures the forks of long rollouts into groups (stage `grpo`). The paper leaves all of this open."""

    members: int = key(8, "continuations G of one past", ge=2, le=65_536)
    frames: int = key(12, "length of each continuation, in latent frames", ge=1, le=_MOST_FRAMES)
    forks: int = key(2, "groups per rollout, each forked at a drawn start", ge=1, le=65_536)
    burn_in_frames: int = key(27, "window.burn_in_frames, for groups", ge=0, le=_MOST_FRAMES)
    transitions: str = key(
        "one", "re-noising transitions that are trained: one, drawn for each group, or all", choices=("one", "all")
    )
    transition_shares: list[float] = key(
        [], "with transitions=one: frequency of each, noisiest first (any positive scale); []: evenly", ge=0
    )
    noise: str = key(
        "one",
        "common noise of a group: one (all but that of its one transition), first (the first of each block) or fresh "
        "(none)",
        choices=("one", "first", "fresh"),
    )
    coarse: float = key(
        1.0, "share of a frame's spatial frequencies, from the lowest, in which members' noise differs", gt=0, le=1
    )
    antithetic: bool = key(True, "members in pairs of opposite noise")

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
