"""A process that makes videos. A plain class: cluster/ makes it remote, tests just call it."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from actors.student_actor import StudentActor, blocks_kept
from models.records import MadeBlock, Rollout, Window, WindowPlan
from models.sampler import stream_blocks


class RolloutActor(StudentActor):
    """Rolls the student out, several videos at a time, and yields each planned window when its last block exists."""

    def windows(self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()) -> Iterator[Window | MadeBlock]:
        """Windows of `rollouts` in the order in which they are finished, and each block before its windows.

        Stops after the last window. `made` are the last blocks of these videos, streamed by an actor that was lost:
        the videos go on behind them, with the noise that they would have had. The cache is rebuilt from these blocks
        under the newest weights, as the learner rebuilds it. Memory is flat in the length of the video: only the
        blocks that a window can still need are kept.
        """
        block_frames = self.config.block_frames
        text = self.text_of(rollouts)
        recent = deque(made, maxlen=blocks_kept(self.config, self.window))
        last = max(plan.start + self.window.frames for rollout in rollouts for plan in rollout.windows) // block_frames
        self.pull()
        cache = self.cache_after(recent, text)
        blocks = stream_blocks(self.student, text, self.noise_of(rollouts), self.sigmas, cache)
        for index in range(cache.frames // block_frames, last):
            recent.append(self.on_cpu(next(blocks), self._recorded(index, rollouts)))
            yield recent[-1]
            for i, rollout in enumerate(rollouts):
                for plan in rollout.windows:
                    if plan.start + self.window.frames == (index + 1) * block_frames:
                        yield self._cut(i, rollout, plan, recent)
            self.pull()

    def _recorded(self, index: int, rollouts: Sequence[Rollout]) -> list[int]:
        """The denoising steps whose inputs planned windows over this block record."""
        first = index * self.config.block_frames
        steps = {
            plan.step
            for rollout in rollouts
            for plan in rollout.windows
            if plan.start <= first < plan.start + self.window.frames
        }
        return sorted(steps)

    def _cut(self, i: int, rollout: Rollout, plan: WindowPlan, recent: Sequence[MadeBlock]) -> Window:
        """A window of video `i`, which ends with the newest of the `recent` blocks."""
        blocks = self.window.frames // self.config.block_frames
        made = list(recent)
        clean = torch.cat([block.x0[i] for block in made])
        noisy = torch.cat([block.inputs[plan.step][i] for block in made[-blocks:]])
        context, latents = clean[: -self.window.frames], clean[-self.window.frames :]
        images = self.images_of(context, latents[:1])
        return Window(
            rollout=rollout.id,
            attempt=rollout.attempt,
            index=plan.index,
            role=plan.role,
            prompt=rollout.prompt,
            seed=rollout.seed,
            start=plan.start,
            step=plan.step,
            versions=tuple(block.version for block in made),
            context=context,
            latents=latents,
            noisy=noisy,
            image=None if images is None else images[0],
        )
