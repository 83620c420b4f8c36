"""All rewards of a group's segment: latents in, one number per reward, member and window out."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.attempt import attempt
from rewards.clip import Clip
from rewards.flow.engines import flow_engine
from rewards.flow.optical_flow import Flow
from rewards.registry import make_rewards
from rewards.reward import Reward
from rewards.reward_config import RewardConfig
from rewards.windows import against_one, against_own_beginning, cut_windows, video_frames_per_latent


@dataclass(frozen=True)
class Scores:
    """What G members earned in each of their W windows."""

    values: dict[str, list[list[float]]]
    """[G][W] by reward; NaN where it failed or could not tell. Never 0 for either."""
    failures: dict[str, str]
    """Why a reward's last missing score is missing."""
    hung: bool
    """A reward still runs in a thread of this process: the caller replaces the process."""


class Scorer:
    """Decodes segments once, computes flow once, cuts both into windows and asks every reward."""

    def __init__(self, config: RewardConfig, names: Iterable[str], decode: Callable[[Tensor], Tensor]):
        """`decode` turns latents [B F C H W] into pixels [B T 3 H W] in [0, 1].

        Raises ValueError where a reward cannot be made, or the flow engine.
        """
        self._config, self._decode = config, decode
        self._rewards = make_rewards(names, config)
        needed = frozenset().union(*(reward.needs for reward in self._rewards.values()))
        self._flow = flow_engine(config) if "flow" in needed else None
        self._running: dict[str, threading.Thread] = {}
        """Where rewards still run that did not answer in time; they are asked again when that has ended."""

    @torch.no_grad()
    def score(
        self,
        prompt: str,
        latents: Tensor,
        before: Tensor | None,
        reference: Tensor | None,
        bar: Tensor | None = None,
    ) -> Scores:
        """Score the segment `latents` [G K C H W] of a group in windows of reward.window_frames.

        `before` [P C H W] are the latent frames that the segment follows, of which windows show reward.lead_frames;
        `reference` [R C H W] are the prompt's first frames, and `bar` [R C H W] those of another model, which set the
        bar of motion in their place. Members share all three. Without `reference` every member's own first window is
        its reference, and the bar of motion is the mean over all of them. Raises ValueError where K is no whole number
        of windows.
        """
        assert bar is None or reference is not None, "members that are their own references set the bar together"
        frames = self._config.window_frames
        if latents.shape[1] % frames:
            raise ValueError(
                f"a segment of {latents.shape[1]} latent frames has no whole number of windows of "
                f"reward.window_frames={frames}"
            )
        lead = self._config.lead_frames
        before = None if before is None else before[-lead:]
        decoded = latents.shape[1] + (0 if before is None else len(before))
        members = [cut_windows(member, decoded, frames, lead) for member in self._whole(prompt, latents, before)]
        if reference is None:
            members = against_own_beginning(members)
        else:
            held, *bars = (self._whole(prompt, x[None], None)[0] for x in (reference, bar) if x is not None)
            members = against_one(members, held, bars)
        return self._ask(members)

    def _whole(self, prompt: str, latents: Tensor, before: Tensor | None) -> list[Clip]:
        """Every member's segment as one clip, behind the frames before it."""
        shown = latents
        if before is not None:
            shown = torch.cat([before.expand(len(latents), *before.shape), latents], dim=1)
        pixels = self._decode(shown).float().cpu()
        last_before = max(shown.shape[1] - latents.shape[1] - 1, 0)
        flows = self._flows(pixels, last_before * video_frames_per_latent(pixels.shape[1], shown.shape[1]))
        return [Clip(prompt, *parts) for parts in zip(pixels, latents, flows, strict=True)]

    def _flows(self, videos: Tensor, shared: int) -> list[Flow | None]:
        """Of videos [G T 3 H W] that are the same up to frame `shared`: what they share is looked at once."""
        if self._flow is None:
            return [None] * len(videos)
        before = self._flow(videos[0, : shared + 1])
        return [before.followed_by(self._flow(video[shared:])) for video in videos]

    def _ask(self, members: Sequence[Sequence[Clip]]) -> Scores:
        values, failures, hung = {}, {}, False
        for name, reward in self._rewards.items():
            scores = torch.full((len(members), len(members[0])), torch.nan, dtype=torch.float64)
            for rows, columns in calls(reward, *scores.shape):
                if name in self._running and self._running[name].is_alive():
                    failures[name] = "it still runs, from a call that had no answer in time"
                    break
                clips = [members[row][column] for row, column in zip(rows, columns, strict=True)]
                answer = attempt(name, reward, clips, self._config.timeout_s)
                scores[rows, columns] = answer.scores
                if answer.failure is not None:
                    failures[name] = answer.failure
                if answer.running is not None:
                    self._running[name], hung = answer.running, True
                    break
            values[name] = scores.tolist()
        return Scores(values, failures, hung)


def calls(reward: Reward, members: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Members and windows of the clips of each call of `reward`, by its scope."""
    everything = [(row, column) for row in range(members) for column in range(count)]
    if reward.scope == "window":
        return [tuple(map(list, zip(*everything, strict=True)))]
    return [(list(range(members)), [column] * members) for column in range(count)]
