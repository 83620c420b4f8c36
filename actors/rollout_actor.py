"""Make long videos with the student, and cut the planned windows out of them."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from actors.student_actor import StudentActor, blocks_kept
from models.records import MadeBlock, Rollout, Window


class RolloutActor(StudentActor):
    """Rolls the student out, several videos at a time. A plain class: cluster/ makes it remote."""

    def windows(self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()) -> Iterator[Window | MadeBlock]:
        """Yield each block of `rollouts`, and after it the planned windows that it ends; stop after the last window.

        `made` are the last blocks of these videos, streamed by an actor that was lost: the videos continue behind them,
        with the noise that they would have had, and the cache is rebuilt from these blocks under the newest weights, as
        the learner rebuilds it. Memory is flat in the length of the video: only the blocks that a window can still need
        are kept.
        """
        block_frames, frames = self.config.block_frames, self.window.frames
        recent = deque(made, maxlen=blocks_kept(self.config, self.window))
        last = max(plan.start + frames for rollout in rollouts for plan in rollout.windows) // block_frames
        _, cache, blocks = self.resume(rollouts, recent)
        for index in range(cache.frames // block_frames, last):
            first, end = index * block_frames, (index + 1) * block_frames
            plans = [plan for rollout in rollouts for plan in rollout.windows]
            steps = {plan.step for plan in plans if plan.start <= first < plan.start + frames}
            recent.append(self.on_cpu(next(blocks), sorted(steps)))
            yield recent[-1]
            held = list(recent)  # a window ends with the last of them
            ending = [(i, rollout, plan) for i, rollout in enumerate(rollouts) for plan in rollout.windows
                      if plan.start + frames == end]  # fmt: skip
            for i, rollout, plan in ending:
                clean = torch.cat([block.x0[i] for block in held])
                context, latents = clean[:-frames], clean[-frames:]
                images = self.images_of(context, latents[:1])
                yield Window(
                    **rollout.sample_fields(plan),
                    versions=tuple(block.version for block in held),
                    context=context,
                    latents=latents,
                    noisy=torch.cat([block.inputs[plan.step][i] for block in held[-(frames // block_frames) :]]),
                    image=None if images is None else images[0],
                )
            self.pull()
