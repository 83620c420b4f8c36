"""Draw random numbers as a function of their use, never of history, so that any can be drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy
import torch
from torch import Tensor

from models.frequencies import low_pass


class Draw(IntEnum):
    """Names the use of a random number: the second place after the seed, so that no two uses share a stream."""

    PRETRAINING = 1
    ODE_BATCH = 2
    STUDENT_UPDATE = 3
    CRITIC_UPDATE = 4
    TRAJECTORY = 5
    ROLLOUT = 6
    EVALUATION = 7
    ADAPTERS = 8
    SENTINEL = 9
    PROMPTS = 10


def generator_for(*place: int) -> torch.Generator:
    """Make a CPU generator that depends on `place` alone: (seed, Draw.CRITIC_UPDATE, update, window), ..."""
    state = numpy.random.SeedSequence(place).generate_state(2, numpy.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


@dataclass(frozen=True)
class BlockNoise:
    """Draws noise of a batch of videos, one seed each: the same for a video in any batch and process."""

    seeds: Sequence[int]
    block_shape: tuple[int, int, int, int]
    """(F, C, H, W) of a block."""
    device: torch.device = torch.device("cpu")
    first: int = 0
    """Block of the video that `draw` counts as 0."""

    def draw(self, block: int, step: int) -> Tensor:
        """Draw noise [B F C H W] for a denoising step of a block; step 0 is the block's start."""
        generators = [generator_for(seed, self.first + block, step) for seed in self.seeds]
        drawn = [torch.randn(self.block_shape, generator=generator) for generator in generators]
        return to_device(torch.stack(drawn), self.device)


@dataclass(frozen=True)
class MemberNoise:
    """Draws noise of a group's members: the video's own where it is shared, else one per member."""

    seed: int
    """The video's."""
    fork: int
    """Number of the group among the video's: two that begin at one frame differ."""
    members: int
    shared: Sequence[int]
    """Denoising steps whose noise all members share: the video's own."""
    coarse: float
    """Share of the spatial frequencies, from the lowest, in which members differ; the others are the video's."""
    antithetic: bool
    """True if every second member has the noise of the one before it with the opposite sign."""
    block_shape: tuple[int, int, int, int]
    """(F, C, H, W) of a block."""
    device: torch.device = torch.device("cpu")

    def draw(self, block: int, step: int) -> Tensor:
        """Draw noise [G F C H W] for a denoising step of a block; step 0 is the block's start."""
        common = torch.randn(self.block_shape, generator=generator_for(self.seed, block, step))
        if step in self.shared:
            return to_device(common, self.device).expand(self.members, *self.block_shape)
        drawn = []
        for member in range(self.members):
            number, sign = (member // 2, 1 - 2 * (member % 2)) if self.antithetic else (member, 1)
            generator = generator_for(self.seed, block, step, self.fork, 1 + number)
            drawn.append(sign * torch.randn(self.block_shape, generator=generator))
        own = torch.stack(drawn)
        if self.coarse < 1:
            own = common + low_pass(own - common, self.coarse)
        return to_device(own, self.device)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy `values` to `device`; a GPU copies them from pinned memory, so that the CPU does not wait."""
    on_host = device.type == "cuda" and values.device.type == "cpu"
    return (values.pin_memory() if on_host else values).to(device, non_blocking=True)


def evaluation_seeds(seed: int, count: int) -> list[int]:
    """Draw the seeds of `count` videos that judge a student: the same for every student of a run's `seed`."""
    drawn = torch.randint(2**62, (count,), generator=generator_for(seed, Draw.EVALUATION))
    return [int(one) for one in drawn]
