"""A process that forks videos: a shared past, and several continuations of it to be compared."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from actors.student_actor import StudentActor
from models.kv_cache import KVCache
from models.noise import MemberNoise
from models.records import Group, GroupPlan, MadeBlock, Progress, Rollout
from models.sampler import SampledBlock, stream_blocks


class GroupActor(StudentActor):
    """Rolls the student out, several videos at a time, and forks each where its plan says."""

    def windows(
        self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()
    ) -> Iterator[Group | MadeBlock | Progress]:
        """Each block of the shared pasts, and behind it the groups that fork there; a sign of life for their blocks.

        Stops after the last group. `made` are the last blocks of these videos, as for `RolloutActor.windows`. The
        members of a group read one memory of their past: nothing of it is made twice, or kept twice.
        """
        block_frames = self.config.block_frames
        text = self.text_of(rollouts)
        kept = (self.window.burn_in_frames + self.config.context_frames) // block_frames
        recent = deque(made, maxlen=kept)
        self.pull()
        cache = self.cache_after(recent, text)
        blocks = stream_blocks(self.student, text, self.noise_of(rollouts), self.sigmas, cache)
        yield from self._forks(rollouts, text, cache, recent)
        last = max(plan.start for rollout in rollouts for plan in rollout.windows)
        for _ in range(cache.frames, last, block_frames):
            block = next(blocks)
            recent.append(self.on_cpu(block))
            yield recent[-1]
            yield from self._forks(rollouts, text, block.cache, recent)
            self.pull()

    def _forks(
        self, rollouts: Sequence[Rollout], text: Tensor, cache: KVCache, recent: Sequence[MadeBlock]
    ) -> Iterator[Group | Progress]:
        """The groups that begin behind what `cache` holds."""
        for i, rollout in enumerate(rollouts):
            for plan in rollout.windows:
                if plan.start == cache.frames:
                    yield from self._continue(i, rollout, plan, text[i : i + 1], cache, list(recent))

    def _continue(
        self, i: int, rollout: Rollout, plan: GroupPlan, text: Tensor, cache: KVCache, before: Sequence[MadeBlock]
    ) -> Iterator[Group | Progress]:
        noise = MemberNoise(
            rollout.seed, plan.index, plan.members, plan.shared, plan.coarse, plan.antithetic, self.block_shape,
            self.device,
        )  # fmt: skip
        texts = text.expand(plan.members, *text.shape[1:])
        blocks = stream_blocks(self.student, texts, noise, self.sigmas, cache.fork(i))
        made, versions = [], [block.version for block in before]
        for block in islice(blocks, plan.frames // self.config.block_frames):
            made.append(_recorded(block, plan))
            versions.append(self.version)
            yield Progress(len(made), "continued block")
            self.pull()
        latents, noisy, states, samples, behaviour = (
            torch.cat(parts, dim=-4).cpu() for parts in zip(*made, strict=True)
        )
        past = [block.x0[i] for block in before]
        context = torch.cat(past) if past else latents.new_zeros(0, *latents.shape[2:])
        yield Group(
            rollout=rollout.id,
            attempt=rollout.attempt,
            index=plan.index,
            role=plan.role,
            prompt=rollout.prompt,
            seed=rollout.seed,
            start=plan.start,
            step=plan.step,
            transitions=plan.transitions,
            versions=tuple(versions),
            context=context,
            latents=latents,
            noisy=noisy,
            states=states,
            samples=samples,
            behaviour=behaviour,
            images=self.images_of(context, latents[:, 0]),
        )


def _recorded(block: SampledBlock, plan: GroupPlan) -> tuple[Tensor, ...]:
    """The block's part of a group's tensors: frames are the fourth axis from the end in each."""

    def at(steps: Sequence[Tensor], offset: int = 0) -> Tensor:
        chosen = [steps[transition + offset] for transition in plan.transitions]
        return torch.stack(chosen, dim=1) if chosen else block.x0.new_zeros(len(block.x0), 0, *block.x0.shape[1:])

    return block.x0, block.inputs[-1], at(block.inputs), at(block.inputs, 1), at(block.predictions)
