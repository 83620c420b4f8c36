"""Transitions as micro-batches: what the student said of them before a round, and the losses between then and now."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.policy import POLICY_LOSSES, correction, kl, log_ratio
from learner.parallel import collectives
from learner.parallel.micro_batches import micro_batches
from learner.policy_config import GrpoConfig
from learner.replay import Batch, collate, masked_x0
from learner.stage_config import LearnerConfig
from learner.transitions import Transition, repeat_per_block, transitions_of
from models.flow_matching import warped_sigmas
from models.frequencies import low_frequency_dct
from models.network_config import StudentConfig
from models.records import Group
from models.wan.network import Wan


@dataclass(frozen=True)
class PolicyBatch:
    """B transitions on the learner's device; a term is one block of one of them, N = B * blocks."""

    batch: Batch
    states: Tensor
    """[B K C H W]."""
    levels: Tensor
    """[B]; the level that each transition leaves."""
    samples: Tensor
    """[N F C h w], as `old`."""
    old: Tensor
    """[N F C h w]: the student's x0 before the round, its coarse part."""
    reference: Tensor | None
    """[N F C H W]: the frozen student's, whole."""
    sigma: Tensor
    """[N]; `levels` again."""
    sigma_next: Tensor
    """[N]; the level that is reached."""
    advantage: Tensor
    """[N]."""
    count: Tensor
    """[N]: what each term counts, 0 where it is masked."""
    replay: Tensor
    """[N 3]: |ratio - 1| of the student to the actor's record, the weight for age, whether it is masked for it.

    The first is NaN where the weights have changed since: there it is no error of the replay.
    """


class PolicyBatches:
    """The student as a policy of groups, and the frozen one that it may be held to."""

    def __init__(
        self,
        student: Wan,
        reference: Wan | None,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: GrpoConfig,
        learner: LearnerConfig,
        coarse: float = 1.0,
    ):
        """`reference` is for grpo.kl above 0; without, there is no KL term.

        `coarse` is the share of the spatial frequencies in which members differ: the densities are of those alone.
        """
        self.student, self.reference = student, reference
        self.encode_text, self.shape, self.config, self.learner = encode_text, shape, config, learner
        self.device = next(student.parameters()).device
        self.sigmas = torch.tensor(warped_sigmas(shape.timesteps, shape.shift), dtype=torch.float32)
        self.loss_of = POLICY_LOSSES[config.loss]
        self.coarse = coarse

    def snapshot(self, groups: Sequence[Group], values: Tensor, valid: Tensor) -> list[PolicyBatch]:
        """Groups with their advantages `values` [P G W], and where these are `valid`, as micro-batches.

        They are those of every later pass: the same rows side by side, so that the ratio before the first step is 1
        to the last bit.
        """
        blocks = groups[0].latents.shape[1] // self.shape.block_frames
        advantages, counts = repeat_per_block(values, blocks), repeat_per_block(valid, blocks)
        rows = [row for i, group in enumerate(groups) for row in transitions_of(group, advantages[i], counts[i])]
        history = collectives.all_reduce_max(max(len(row.window.context) for row in rows))
        return [self._snapshot(chosen, history) for chosen in micro_batches(rows, self.learner.micro_batch)]

    @torch.no_grad()
    def _snapshot(self, rows: Sequence[Transition], history: int) -> PolicyBatch:
        batch = collate([row.window for row in rows], self.encode_text, self.device, history)
        states, samples, behaviour = (
            torch.stack([getattr(row, name) for row in rows]).to(self.device)
            for name in ("state", "sample", "behaviour")
        )
        steps = torch.tensor([row.step for row in rows])
        levels, following = self.sigmas[steps].to(self.device), self.sigmas[steps + 1].to(self.device)
        networks = [self.student] if self.reference is None else [self.student, self.reference]
        x0, *reference = (self._blocks(masked_x0(net, self.shape, batch, states, levels)) for net in networks)
        old, samples, behaviour = (
            low_frequency_dct(x, self.coarse) for x in (x0, self._blocks(samples), self._blocks(behaviour))
        )
        times = len(old) // len(rows)
        sigma, sigma_next = levels.repeat_interleave(times), following.repeat_interleave(times)
        aged = torch.tensor([row.window.age > 0 for row in rows], device=self.device).repeat_interleave(times)
        replay = self._replay(old, behaviour, samples, sigma, sigma_next, aged)
        counts = self._step_weights()[steps] * torch.tensor([row.window.weight for row in rows], dtype=torch.float64)
        valid = torch.cat([row.valid for row in rows]).to(self.device)
        return PolicyBatch(
            batch=batch,
            states=states,
            levels=levels,
            samples=samples,
            old=old,
            reference=reference[0] if reference else None,
            sigma=sigma,
            sigma_next=sigma_next,
            advantage=torch.cat([row.advantage for row in rows]).to(self.device),
            count=counts.to(self.device).repeat_interleave(times) * valid * replay[:, 1],
            replay=replay,
        )

    def _replay(
        self, old: Tensor, behaviour: Tensor, samples: Tensor, sigma: Tensor, sigma_next: Tensor, aged: Tensor
    ) -> Tensor:
        nothing = torch.zeros_like(sigma, dtype=torch.float64)
        if self.config.loss == "regression":  # has no ratio of its own
            moved = log_ratio(old, behaviour, samples, sigma_next)
        else:
            moved = self.loss_of(old, behaviour, samples, sigma, sigma_next, nothing, self.config.clip).exponent
        found = correction(old, behaviour, samples, sigma_next, self.config.correction_cap, self.config.correction_mask)
        error = moved.expm1().abs().masked_fill(aged, torch.nan)
        return torch.stack([error, found.weight.where(aged, 1.0), (found.masked & aged).double()], dim=1)

    def losses(self, parts: Sequence[PolicyBatch], terms: list[Tensor]) -> Iterator[Tensor]:
        """What each part adds to the mean loss of a step, one graph at a time.

        Also appends [N 5] of each to `terms`: exponent, whether clipped, whether it has an advantage, KL, count.
        """
        size = sum(len(part.count) for part in parts)
        for part in parts:
            x0 = self._blocks(masked_x0(self.student, self.shape, part.batch, part.states, part.levels))
            policy = self.loss_of(
                low_frequency_dct(x0, self.coarse),
                part.old,
                part.samples,
                part.sigma,
                part.sigma_next,
                part.advantage,
                self.config.clip,
            )
            loss, distance = policy.loss, torch.zeros_like(policy.exponent)
            if part.reference is not None:
                distance = kl(x0, part.reference, part.sigma_next)
                loss = loss + self.config.kl * distance
            moving = (part.advantage != 0).double()
            terms.append(
                torch.stack([policy.exponent, policy.clipped.double(), moving, distance.detach(), part.count], dim=1)
            )
            yield (loss * part.count).sum() / size

    def _blocks(self, x: Tensor) -> Tensor:
        """[B K C H W] -> [N F C H W]."""
        return x.unflatten(1, (-1, self.shape.block_frames)).flatten(0, 1)

    def _step_weights(self) -> Tensor:
        weights = self.config.transition_weights or [1.0] * (len(self.sigmas) - 1)
        return torch.tensor(weights, dtype=torch.float64)
