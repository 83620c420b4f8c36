"""Keys of the rollouts and of the windows cut from them."""

import math
from dataclasses import dataclass

from models.keys import DTYPES, key, require_choice, require_positive


@dataclass(kw_only=True)
class RolloutConfig:
    """How the student's long videos are made while training."""

    frames: int = key(96, "horizon N of a training rollout, in latent frames; far past the teacher's")
    batch: int = key(8, "videos that one actor makes together")
    windows: int = key(8, "windows drawn from each rollout, shared out to student and critic updates")
    horizon: str = key("fixed", "fixed (every rollout plans `frames`) or sampled (evenly from one window to `frames`)")
    curriculum: list[list[int]] = key(
        [], "horizons by student update, as [[0,24],[50,48]]; empty: `frames` from the start"
    )
    dtype: str = key("float32", "what student and, in stage ode, teacher compute in: float32 or bfloat16")
    compile: bool = key(False, "torch.compile of the blocks (GPUs; the first videos wait some minutes for it)")
    continued: bool = key(True, "a video whose actor was lost is continued from its streamed latents, not made again")

    def __post_init__(self):
        require_positive("rollout", self, "frames", "batch", "windows")
        require_choice("rollout", self, "horizon", ("fixed", "sampled"))
        require_choice("rollout", self, "dtype", DTYPES)
        steps = self.curriculum
        if any(len(step) != 2 or step[1] > self.frames for step in steps) or (
            steps and (steps[0][0] != 0 or [s[0] for s in steps] != sorted({s[0] for s in steps}))
        ):
            raise ValueError(
                f"rollout.curriculum is {steps}; write [update, frames] pairs from update 0 on, in ascending order, "
                f"none longer than rollout.frames = {self.frames}"
            )

    def frames_at(self, update: int) -> int:
        """The longest horizon, in latent frames, of a rollout dispatched after student update `update`."""
        reached = [frames for first, frames in self.curriculum if first <= update]
        return reached[-1] if reached else self.frames


@dataclass(kw_only=True)
class WindowConfig:
    """Which windows of a rollout are trained on."""

    law: str = key(
        "uniform",
        "distribution of window starts: uniform, stratified (a rollout's windows spread over it), beta(a, b), "
        "prefix(h), weighted(w, ...) (of equal parts of the rollout), priority(share) (that share uniform, the rest "
        "where videos were seen to stray most; in that two runs on Ray differ) or a dotted path",
    )
    frames: int = key(12, "window length K in latent frames: one teacher horizon")
    burn_in_frames: int = key(9, "clean frames before the context that warm the rebuilt cache")
    gradient_step: str = key("last", "denoising step that carries the gradient: last, or drawn for each window")

    def __post_init__(self):
        if self.gradient_step not in ("last", "drawn"):
            raise ValueError(f'window.gradient_step is "{self.gradient_step}"; set it to last or drawn')
        require_positive("window", self, "frames")
        if self.burn_in_frames < 0:
            raise ValueError(f"window.burn_in_frames is {self.burn_in_frames}; it must be 0 or above")


@dataclass(kw_only=True)
class GroupConfig:
    """Stage `grpo`: where long rollouts are forked, and into what. The paper leaves all of this open."""

    members: int = key(
        8, "continuations G of one past; more make steadier advantages, at G x the cost (peers: 4 to 32)"
    )
    frames: int = key(12, "length of each continuation; rollout.frames makes groups of whole videos")
    forks: int = key(
        2, "groups that one rollout is forked into, each at a start that is drawn for it: they share its past"
    )
    burn_in_frames: int = key(
        27, "as window.burn_in_frames, for groups: a ratio needs a truer cache than a DMD window (tiny: 27 is exact)"
    )
    transitions: str = key("one", "re-noising transitions that are trained: one, drawn for each group, or all")
    transition_shares: list[float] = key(
        [], "with transitions=one: how often each is drawn, noisiest first (any positive scale); empty: evenly"
    )
    noise: str = key("one", "what a group shares: one (all noise but that of its one transition), first (the first "
                     "noise of each block) or fresh (nothing)")  # fmt: skip

    coarse: float = key(
        1.0,
        "share of a frame's spatial frequencies, from the lowest, in which members' noise differs, and whose densities "
        "are compared; the fewer numbers are drawn, the better it is known which of them a reward is owed to",
    )
    antithetic: bool = key(
        True, "members come in pairs of opposite noise: what a reward says of its size, whatever its sign, cancels"
    )

    def __post_init__(self):
        require_positive("group", self, "frames", "forks")
        if self.burn_in_frames < 0:
            raise ValueError(f"group.burn_in_frames is {self.burn_in_frames}; it must be 0 or above")
        if self.members < 2:
            raise ValueError(
                f"group.members is {self.members}; one alone has nobody to be better than: make it 2 or more"
            )
        if self.transitions not in ("one", "all"):
            raise ValueError(f'group.transitions is "{self.transitions}"; set it to one or all')
        if self.noise not in ("one", "first", "fresh"):
            raise ValueError(f'group.noise is "{self.noise}"; set it to one, first or fresh')
        if self.antithetic and self.members % 2:
            raise ValueError(
                f"group.members is {self.members}, and group.antithetic pairs them; make it even, or antithetic=false"
            )
        if not 0 < self.coarse <= 1:
            raise ValueError(f"group.coarse is {self.coarse}; it must be above 0 and at most 1")
        shares = self.transition_shares
        if shares and not (all(0 <= share < math.inf for share in shares) and any(shares)):
            raise ValueError(
                f"group.transition_shares is {shares}; they must be 0 or above and finite, and one of them above 0"
            )
        if shares and self.transitions == "all":
            raise ValueError(
                f"group.transition_shares is {shares}, but group.transitions=all draws none; leave one of them out"
            )
        if self.noise == "one" and self.transitions == "all":
            raise ValueError(
                "group.noise=one draws the noise of one transition only; set group.transitions=one, or noise=first"
            )
