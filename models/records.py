"""Define the values that actors, cluster and learner exchange: planned rollouts, and their samples.

Frames are latent frames of a video, counted from 0; a block is `student.block_frames` of them. A denoising step is an
index into `student.timesteps`. Field names are those of checkpoints and of the wire.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.fingerprint import WeightsDiffer, fingerprint

STUDENT, CRITIC, ODE, GRPO, SENTINEL = "student", "critic", "ode", "grpo", "sentinel"
"""Roles: the update that a sample is drawn for, or (sentinel) a measurement of the student outside its rewards."""


@dataclass(frozen=True)
class WindowPlan:
    """Plans a window at dispatch, before the rollout starts, so that no position is favoured by arriving early."""

    role: str
    start: int
    """First latent frame."""
    step: int
    """Denoising step whose input is recorded and where the learner computes x0."""
    index: int
    """Number of the window among its rollout's; kept when some of them are requested again."""


@dataclass(frozen=True)
class GroupPlan(WindowPlan):
    """Plans a fork of a rollout. `start` is the fork; `step` is the last, where x0 is the block."""

    members: int
    """Continuations G."""
    frames: int
    """Length K of each, in latent frames."""
    transitions: tuple[int, ...]
    """Transitions that are recorded: s is the one from denoising step s to s + 1."""
    shared: tuple[int, ...]
    """Denoising steps whose noise is the same for all members."""
    coarse: float
    """Share of the spatial frequencies, from the lowest, in which other noise differs between members."""
    antithetic: bool
    """True if other noise comes in pairs of opposite sign, one for each two members."""


@dataclass(frozen=True)
class Rollout:
    """Plans one video, and the windows to be cut from it."""

    id: int
    attempt: int
    prompt: str
    seed: int
    frames: int
    """Horizon N in latent frames."""
    windows: tuple[WindowPlan, ...]

    def sample_fields(self, plan: WindowPlan) -> dict[str, Any]:
        """Return the fields of a window or group that come from its rollout and its plan."""
        return {
            "rollout": self.id, "attempt": self.attempt, "prompt": self.prompt, "seed": self.seed,
            "index": plan.index, "role": plan.role, "start": plan.start, "step": plan.step,
        }  # fmt: skip


@dataclass(frozen=True)
class SampleHeader:
    """Names the rollout and plan that a window, group or trajectory comes from."""

    rollout: int
    attempt: int
    """Try of that rollout, from 0."""
    index: int
    """Number among the rollout's planned windows."""
    role: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Window(SampleHeader):
    """Holds a window of a student's rollout: the unit of transport, age and accounting. Latents are on CPU."""

    start: int
    """First latent frame."""
    step: int
    """Denoising step that `noisy` is the input of."""
    versions: tuple[int, ...]
    """Weight version of each block of context and window."""
    context: Tensor
    """Clean frames before the window, [P C H W]; fewer than planned where the video is younger."""
    latents: Tensor
    """The rollout's own clean frames, [K C H W]."""
    noisy: Tensor
    """The rollout's own input of denoising step `step`, [K C H W]."""
    age: int = 0
    """Student updates between the oldest block's weights and the newest published, when the window was taken."""
    weight: float = 1.0
    """Share of the window in the loss (buffer.policy=weight)."""
    image: Tensor | None = None
    """Image latent that teacher and critic see in place of the first frame, [C H W] (`window_image_latents`)."""

    def __post_init__(self):
        frame = self.latents.shape[1:]
        image = frame if self.image is None else self.image.shape
        if self.latents.shape != self.noisy.shape or self.context.shape[1:] != frame or image != frame:
            raise ValueError(
                f"window {self.index} of rollout {self.rollout}: context {list(self.context.shape)}, latents "
                f"{list(self.latents.shape)}, noisy {list(self.noisy.shape)} and image {list(image)} do not belong "
                "together"
            )

    @property
    def version(self) -> int:
        """Return the version of the oldest block: a window is as old as its oldest part."""
        return min(self.versions)


@dataclass(frozen=True)
class Group(SampleHeader):
    """Holds G continuations of one rollout from a shared past: GRPO's unit, because an advantage needs all of them.

    Transition s of a block draws its input of step s + 1 from N((1 - sigma') x0, sigma'^2 I), where x0 is the student's
    prediction at step s and sigma' the level of step s + 1 (Self-Forcing++, Eq. 7). Latents are on CPU.
    """

    start: int
    """First latent frame of the continuations: the fork."""
    step: int
    """The last denoising step, whose input is `noisy`."""
    transitions: tuple[int, ...]
    """Recorded transitions, T of them."""
    versions: tuple[int, ...]
    """Weight version of each block of context and continuation."""
    context: Tensor
    """Clean frames before the fork, [P C H W]: the same for all members."""
    latents: Tensor
    """[G K C H W]."""
    noisy: Tensor
    """Inputs of denoising step `step`, [G K C H W]: an extended DMD loss on these frames starts from them."""
    states: Tensor
    """Inputs of the steps that the transitions leave, [G T K C H W]."""
    samples: Tensor
    """Inputs of the steps that the transitions reach, [G T K C H W]: the draws."""
    behaviour: Tensor
    """The actor's x0 at the steps that the transitions leave, [G T K C H W]: the means that it drew with."""
    scores: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """Scores by reward, member and window of the continuation; NaN where the reward failed."""
    age: int = 0
    """Student updates between the oldest block's weights and the newest published, when the group was taken."""
    weight: float = 1.0
    """Share of the group in the loss (buffer.policy=weight)."""
    images: Tensor | None = None
    """Image latents in place of the members' first frames, [G C H W], as `Window.image`."""

    @property
    def version(self) -> int:
        """Return the version of the oldest block: a window is as old as its oldest part."""
        return min(self.versions)

    @property
    def members(self) -> int:
        """Return the number of continuations G."""
        return len(self.latents)


@dataclass(frozen=True)
class Trajectory(SampleHeader):
    """Holds a teacher's trajectory at the student's denoising levels: ODE initialisation regresses onto it."""

    states: Tensor
    """[S K C H W], one per denoising step, from pure noise down."""
    latents: Tensor
    """The trajectory's end x0, [K C H W]."""
    start: int = 0
    """First latent frame, as of a window."""


@dataclass(frozen=True)
class MadeBlock:
    """Holds a finished block of videos of one batch: streamed out, so that another actor can continue from it."""

    index: int
    """Place in the videos, counted in blocks."""
    version: int
    """Version of its weights."""
    x0: Tensor
    """[B F C H W] on CPU."""
    inputs: Mapping[int, Tensor]
    """Inputs [B F C H W] on CPU by denoising step, for the steps that planned windows record."""

    def rows(self, kept: Sequence[int]) -> "MadeBlock":
        """Return the same block of the videos at these rows."""
        rows = list(kept)
        return MadeBlock(self.index, self.version, self.x0[rows], {s: x[rows] for s, x in self.inputs.items()})


def first_frames(blocks: Sequence[MadeBlock], row: int, before: int, frames: int) -> Tensor | None:
    """Return the first `frames` latent frames [R C H W] of video `row`, or fewer, from its blocks.

    Only blocks that begin before frame `before` count; None where there are none.
    """
    parts = [block.x0[row] for block in blocks if block.index * block.x0.shape[1] < before]
    return torch.cat(parts)[:frames] if parts else None


@dataclass(frozen=True)
class Progress:
    """Reports that a sampler without a finished block is alive."""

    steps: int
    """Steps done."""
    what: str
    """Name of a step, for the trace."""


@dataclass(frozen=True)
class Weights:
    """Holds a published version of the student. `tensors` are never written again."""

    version: int
    tensors: Mapping[str, Tensor]
    fingerprint: int | None = None
    """Fingerprint of the learner's tensors; None in one process, without transport."""

    def check(self, loaded: Mapping[str, Tensor]) -> None:
        """Compare with the tensors that a network holds after loading. Raises WeightsDiffer, naming the version."""
        if self.fingerprint is not None and fingerprint(loaded) != self.fingerprint:
            raise WeightsDiffer(
                f"the network does not hold version {self.version} as published: fingerprint {fingerprint(loaded):016x}"
                f" instead of {self.fingerprint:016x}"
            )

    @staticmethod
    def of(version: int, module: torch.nn.Module) -> "Weights":
        """Copy `module`'s weights: the original continues to train."""
        return Weights(version, {name: p.detach().cpu().clone() for name, p in module.state_dict().items()})
