"""Fork videos: continue one shared past several times, so that the continuations can be compared."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from actors.student_actor import StudentActor
from models.kv_cache import GroupCache, RollingCache
from models.noise import MemberNoise
from models.records import Group, MadeBlock, Progress, Rollout
from models.sampler import stream_blocks


class GroupActor(StudentActor):
    """Rolls the student out, several videos at a time, and forks each at its planned starts."""

    def windows(
        self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()
    ) -> Iterator[Group | MadeBlock | Progress]:
        """Yield each block of the shared pasts, then the groups that fork after it; stop after the last group.

        `Progress` stands for each block of a group. `made` are the last blocks of these videos, as for
        `RolloutActor.windows`. The members of a group read one cache of their past: no part is computed or kept twice.
        """
        kept = (self.window.burn_in_frames + self.config.context_frames) // self.config.block_frames
        recent = deque(made, maxlen=kept)
        text, cache, blocks = self.resume(rollouts, recent)
        yield from self._forks(rollouts, text, cache, recent)
        last = max(plan.start for rollout in rollouts for plan in rollout.windows)
        for _ in range(cache.frames, last, self.config.block_frames):
            block = next(blocks)
            recent.append(self.on_cpu(block))
            yield recent[-1]
            yield from self._forks(rollouts, text, block.cache, recent)
            self.pull()

    def _forks(
        self, rollouts: Sequence[Rollout], text: Tensor, cache: RollingCache, recent: Sequence[MadeBlock]
    ) -> Iterator[Group | Progress]:
        """Make the groups that fork after the frames in `cache`, whose last blocks are `recent`."""
        before = list(recent)
        forks = [(i, rollout, plan) for i, rollout in enumerate(rollouts) for plan in rollout.windows]
        for i, rollout, plan in forks:
            if plan.start != cache.frames:
                continue
            noise = MemberNoise(
                rollout.seed, plan.index, plan.members, plan.shared, plan.coarse, plan.antithetic, self.block_shape,
                self.device,
            )  # fmt: skip
            texts = text[i : i + 1].expand(plan.members, *text.shape[1:])
            own = GroupCache(**vars(cache.fork(i)))
            blocks = stream_blocks(self.student, texts, noise, self.sigmas, own)
            block_parts, versions = [], [block.version for block in before]
            for block in islice(blocks, plan.frames // self.config.block_frames):
                # Frames are the fourth axis from the end of all five: [G F C H W], then [G T F C H W].
                columns = [
                    [steps[transition + offset] for transition in plan.transitions]
                    for steps, offset in ((block.inputs, 0), (block.inputs, 1), (block.predictions, 0))
                ]
                empty = block.x0.new_zeros(len(block.x0), 0, *block.x0.shape[1:])
                recorded = [torch.stack(column, dim=1) if column else empty for column in columns]
                block_parts.append((block.x0, block.inputs[-1], *recorded))
                versions.append(self.version)
                yield Progress(len(block_parts), "continued block")
                self.pull()
            latents, noisy, states, samples, behaviour = (
                torch.cat(parts, dim=-4).cpu() for parts in zip(*block_parts, strict=True)
            )
            past = [block.x0[i] for block in before]
            context = torch.cat(past) if past else latents.new_zeros(0, *latents.shape[2:])
            yield Group(
                **rollout.sample_fields(plan),
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
