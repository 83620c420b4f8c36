"""Make long videos with the student, and cut the planned windows out of them."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from actors.student_actor import StudentActor, blocks_kept
from models.records import MadeBlock, Rollout, Window, WindowPlan


class RolloutActor(StudentActor):
    """Roll the student out, several videos at a time. A plain class: cluster/ makes it remote, tests just call it."""

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
            for i, rollout in enumerate(rollouts):
                for plan in rollout.windows:
                    if plan.start + frames == end:
                        yield self._cut(i, rollout, plan, list(recent))
            self.pull()

    def _cut(self, i: int, rollout: Rollout, plan: WindowPlan, made: Sequence[MadeBlock]) -> Window:
        """Cut a window of video `i` that ends with the last of `made`."""
        frames, blocks = self.window.frames, self.window.frames // self.config.block_frames
        clean = torch.cat([block.x0[i] for block in made])
        context, latents = clean[:-frames], clean[-frames:]
        images = self.images_of(context, latents[:1])
        return Window(
            **rollout.sample_fields(plan),
            versions=tuple(block.version for block in made),
            context=context,
            latents=latents,
            noisy=torch.cat([block.inputs[plan.step][i] for block in made[-blocks:]]),
            image=None if images is None else images[0],
        )
