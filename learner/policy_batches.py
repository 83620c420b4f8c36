"""Batch transitions: predict before a round, and compute the losses of the current student against that."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from learner.losses.policy import POLICY_LOSSES, correction, kl, log_ratio
from learner.member_windows import member_window
from learner.optimizer import micro_batches
from learner.parallel import collectives
from learner.policy_config import GrpoConfig
from learner.replay import Batch, collate, masked_x0
from models.flow_matching import warped_sigmas
from models.frequencies import low_frequency_dct
from models.network_config import StudentConfig
from models.noise import to_device
from models.records import Group, Window
from models.wan.network import Wan


class ReplayColumns(NamedTuple):
    """Compares the student's replay of N terms with the actors' record."""

    error: Tensor
    """[N]: |ratio - 1|. NaN where the weights have changed since: there it is no error of the replay."""
    weight: Tensor
    """[N]: importance weight for the record's age."""
    masked: Tensor
    """[N]: 1 where the term is masked for its age, else 0."""


class TermColumns(NamedTuple):
    """Measures N terms of a step."""

    exponent: Tensor
    """[N]: logarithm of the ratio."""
    clipped: Tensor
    """[N]: 1 where the clip decided, else 0."""
    moving: Tensor
    """[N]: 1 where the term has an advantage, else 0."""
    kl: Tensor
    """[N]: to the reference; 0 without one."""
    count: Tensor
    """[N]: see `PolicyBatch.count`."""

    @staticmethod
    def metrics(parts: "Sequence[TermColumns]") -> dict[str, float]:
        """Average over all ranks' terms of all steps of a round (a collective)."""
        terms = collectives.all_gather_columns(parts)
        exponent, clipped, moving, distance = (column[terms.count > 0] for column in terms[:4])
        if not len(exponent):
            return {}
        ratio = exponent.exp()
        return {
            "policy/ratio_mean": float(ratio.mean()),
            "policy/ratio_std": float(ratio.std(correction=0)),
            "policy/ratio_max": float((ratio - 1).abs().max()),
            "policy/clipped": float(clipped.sum() / moving.sum().clamp_min(1)),
            "policy/kl": float(distance.mean()),
        }


@dataclass(frozen=True)
class Transition:
    """Holds one re-noising transition of all blocks of one member. Latents are on CPU."""

    window: Window
    """The member, whole."""
    step: int
    """Denoising step that it leaves; it reaches the next."""
    state: Tensor
    """[K C H W]."""
    sample: Tensor
    """[K C H W]."""
    behaviour: Tensor
    """The actor's x0 at `step`, [K C H W]."""
    advantage: Tensor
    """[blocks], 0 where it does not count."""
    valid: Tensor
    """[blocks] bool."""


@dataclass(frozen=True)
class PolicyBatch:
    """Holds B transitions on the learner's device; a term is one block of one of them, N = B * blocks."""

    batch: Batch
    states: Tensor
    """[B K C H W]."""
    levels: Tensor
    """[B]; the level that each transition leaves."""
    samples: Tensor
    """[N F C h w], as `x0_old`."""
    x0_old: Tensor
    """[N F C h w]: low frequencies of the student's x0 before the round."""
    reference: Tensor | None
    """[N F C H W]: the frozen student's, all frequencies."""
    sigma: Tensor
    """[N]; `levels` again."""
    sigma_next: Tensor
    """[N]; the level that is reached."""
    advantage: Tensor
    """[N]."""
    count: Tensor
    """[N]: weight of each term, 0 where it is masked."""
    replay: ReplayColumns


class PolicyBatches:
    """Evaluates the student as a policy of groups, and the frozen student that it may be held to."""

    def __init__(
        self,
        student: Wan,
        reference: Wan | None,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: GrpoConfig,
        micro_batch: int | None = None,
        coarse: float = 1.0,
    ):
        """Add a KL term to `reference` where there is one (grpo.kl above 0).

        `coarse` is the share of the spatial frequencies in which members differ: the densities are of those alone.
        """
        self.student, self.reference = student, reference
        self.encode_text, self.shape, self.config, self.micro_batch = encode_text, shape, config, micro_batch
        self.device = next(student.parameters()).device
        self.sigmas = torch.tensor(warped_sigmas(shape.timesteps, shape.shift), dtype=torch.float32)
        self.loss_of = POLICY_LOSSES[config.loss]
        self.coarse = coarse

    def snapshot(self, groups: Sequence[Group], values: Tensor, valid: Tensor) -> list[PolicyBatch]:
        """Cut groups with their advantages `values` [P G W], where these are `valid`, into micro-batches.

        Every later pass uses them: the same rows side by side, so that the ratio before the first step is 1 to the
        last bit.
        """
        blocks, windows = groups[0].latents.shape[1] // self.shape.block_frames, values.shape[-1]
        assert blocks % windows == 0, (tuple(values.shape), blocks)
        advantages, counts = (column.repeat_interleave(blocks // windows, dim=-1) for column in (values, valid))
        rows = []
        for number, group in enumerate(groups):
            for member in range(group.members):
                window = member_window(group, member, 0, group.latents.shape[1])
                taken = (x[member] for x in (group.states, group.samples, group.behaviour))
                for step, *tensors in zip(group.transitions, *taken, strict=True):
                    rows.append(Transition(window, step, *tensors, advantages[number, member], counts[number, member]))
        history = collectives.all_reduce_max(max(len(row.window.context) for row in rows))
        return [self._snapshot(part, history) for part in micro_batches(rows, self.micro_batch)]

    @torch.no_grad()
    def _snapshot(self, rows: Sequence[Transition], history: int) -> PolicyBatch:
        batch = collate([row.window for row in rows], self.encode_text, self.device, history)
        states, samples, behaviour = (
            to_device(torch.stack([getattr(row, name) for row in rows]), self.device)
            for name in ("state", "sample", "behaviour")
        )
        steps = torch.tensor([row.step for row in rows])
        levels, following = (to_device(self.sigmas[i], self.device) for i in (steps, steps + 1))
        networks = [self.student] if self.reference is None else [self.student, self.reference]
        x0, *reference = (self._blocks(masked_x0(net, self.shape, batch, states, levels)) for net in networks)
        x0_old, samples, behaviour = (
            low_frequency_dct(x, self.coarse) for x in (x0, self._blocks(samples), self._blocks(behaviour))
        )
        times = len(x0_old) // len(rows)
        sigma, sigma_next = levels.repeat_interleave(times), following.repeat_interleave(times)
        aged = to_device(torch.tensor([row.window.age > 0 for row in rows]), self.device).repeat_interleave(times)
        c, zero = self.config, torch.zeros_like(sigma, dtype=torch.float64)
        if c.loss == "regression":  # has no ratio of its own
            exponent = log_ratio(x0_old, behaviour, samples, sigma_next)
        else:
            exponent = self.loss_of(x0_old, behaviour, samples, sigma, sigma_next, zero, c.clip).exponent
        weight, masked = correction(x0_old, behaviour, samples, sigma_next, c.correction_cap, c.correction_mask)
        error = exponent.expm1().abs().masked_fill(aged, torch.nan)
        replay = ReplayColumns(error, weight.where(aged, 1.0), (masked & aged).double())
        step_weights = c.transition_weights or [1.0] * (len(self.sigmas) - 1)
        weights = torch.tensor([row.window.weight for row in rows], dtype=torch.float64)
        counts = torch.tensor(step_weights, dtype=torch.float64)[steps] * weights
        valid = to_device(torch.cat([row.valid for row in rows]), self.device)
        return PolicyBatch(
            batch=batch,
            states=states,
            levels=levels,
            samples=samples,
            x0_old=x0_old,
            reference=reference[0] if reference else None,
            sigma=sigma,
            sigma_next=sigma_next,
            advantage=to_device(torch.cat([row.advantage for row in rows]), self.device),
            count=to_device(counts, self.device).repeat_interleave(times) * valid * replay.weight,
            replay=replay,
        )

    def losses(self, parts: Sequence[PolicyBatch], terms: list[TermColumns]) -> Iterator[Tensor]:
        """Yield each part's share of the mean loss of a step, one graph at a time; append to `terms`."""
        size = sum(len(part.count) for part in parts)
        for part in parts:
            x0 = self._blocks(masked_x0(self.student, self.shape, part.batch, part.states, part.levels))
            low = low_frequency_dct(x0, self.coarse)
            loss, exponent, clipped = self.loss_of(
                low, part.x0_old, part.samples, part.sigma, part.sigma_next, part.advantage, self.config.clip
            )
            distance = torch.zeros_like(exponent)
            if part.reference is not None:
                distance = kl(x0, part.reference, part.sigma_next)
                loss = loss + self.config.kl * distance
            moving = (part.advantage != 0).double()
            terms.append(TermColumns(exponent, clipped.double(), moving, distance.detach(), part.count))
            yield (loss * part.count).sum() / size

    def _blocks(self, x: Tensor) -> Tensor:
        """Cut [B K C H W] into blocks [N F C H W]."""
        return x.unflatten(1, (-1, self.shape.block_frames)).flatten(0, 1)
