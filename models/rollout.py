"""What both halves speak of: a rollout that was asked for, and the windows that come out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STUDENT, CRITIC, ODE = "student", "critic", "ode"
"""Roles: which update a window was drawn for."""


@dataclass(frozen=True)
class WindowPlan:
    """A window as drawn at dispatch: before the rollout starts, so that no position is favoured by arriving early."""

    role: str
    start: int
    """First latent frame."""
    step: int
    """Denoising step whose input is recorded and where the learner computes x0."""
    index: int
    """Which of its rollout's windows this is: kept when some of them are asked for again."""


@dataclass(frozen=True)
class Rollout:
    """One video to be made, and the windows to be cut from it."""

    id: int
    attempt: int
    prompt: str
    seed: int
    frames: int
    """Horizon N in latent frames."""
    windows: tuple[WindowPlan, ...]


@dataclass(frozen=True)
class Window:
    """A window of a student's rollout: the unit of transport, age and accounting. All tensors are latents on CPU."""

    rollout: int
    attempt: int
    index: int
    """Which of its rollout's planned windows this is."""
    role: str
    prompt: str
    seed: int
    start: int
    step: int
    versions: tuple[int, ...]
    """Weight version of each block of context and window."""
    context: Tensor
    """Clean frames before the window, [P C H W]; fewer than asked for where the video is younger."""
    latents: Tensor
    """The rollout's own clean frames, [K C H W]."""
    noisy: Tensor
    """The rollout's own input of denoising step `step`, [K C H W]."""
    age: int = 0
    """Student updates between the oldest block's weights and the newest published, when the window was taken."""
    weight: float = 1.0
    """Share of the window in the loss (buffer.policy=weight)."""

    def __post_init__(self):
        if self.latents.shape != self.noisy.shape or self.latents.shape[1:] != self.context.shape[1:]:
            raise ValueError(
                f"window {self.index} of rollout {self.rollout}: context {list(self.context.shape)}, latents "
                f"{list(self.latents.shape)} and noisy {list(self.noisy.shape)} do not belong together"
            )

    @property
    def version(self) -> int:
        """Version of the oldest block: a window is as old as its oldest part."""
        return min(self.versions)


@dataclass(frozen=True)
class Trajectory:
    """A teacher's trajectory at the student's denoising levels: what ODE initialisation regresses onto."""

    rollout: int
    attempt: int
    index: int
    role: str
    prompt: str
    states: Tensor
    """[S K C H W], one per denoising step, from pure noise down."""
    latents: Tensor
    """The trajectory's end x0, [K C H W]."""
    start: int = 0
    """First latent frame, as of a window."""


@dataclass(frozen=True)
class MadeBlock:
    """A finished block of videos that are made together: streamed out, so that another actor can go on from it."""

    index: int
    """Its place in the videos, counted in blocks."""
    version: int
    """Version of the weights that made it."""
    x0: Tensor
    """[B F C H W] on CPU."""
    inputs: Mapping[int, Tensor]
    """By denoising step, for the steps that a planned window over this block records: [B F C H W] on CPU."""

    def rows(self, kept: Sequence[int]) -> "MadeBlock":
        """The same block of some of the videos."""
        rows = list(kept)
        return MadeBlock(self.index, self.version, self.x0[rows], {s: x[rows] for s, x in self.inputs.items()})


@dataclass(frozen=True)
class Progress:
    """A sign of life from a sampler that has no block to show yet."""

    steps: int
    """Steps of its solver that are done."""


@dataclass(frozen=True)
class Weights:
    """A published version of the student. `tensors` are on CPU and are never written again."""

    version: int
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(version: int, module: torch.nn.Module) -> "Weights":
        """A copy of `module`'s weights: the original goes on training."""
        return Weights(version, {name: p.detach().cpu().clone() for name, p in module.state_dict().items()})
