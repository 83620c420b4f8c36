"""Score a group's segment by all rewards: latents in, one number per reward, member and window out."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.errors import ConfigError
from rewards.attempt import attempt
from rewards.registry import make_flow_engine, make_reward
from rewards.reward import Clip, LoadsModel
from rewards.reward_config import RewardConfig


@dataclass(frozen=True)
class Scores:
    """Holds scores of G members in each of their W windows."""

    values: dict[str, list[list[float]]]
    """[G][W] by reward; NaN, never 0, where a reward failed or has no score."""
    failures: dict[str, str]
    """Reason for the last missing score, by reward."""
    hung: bool
    """True if a reward still runs in a thread of this process: the caller replaces the process."""


class Scorer:
    """Decodes segments once, computes flow once, cuts both into windows and calls every reward."""

    def __init__(self, config: RewardConfig, names: Iterable[str], decode: Callable[[Tensor], Tensor]):
        """Make the rewards and the flow engine; `decode` maps latents [B F C H W] to pixels [B T 3 H W].

        Raises ConfigError where a reward or the flow engine cannot be made.
        """
        self._config, self._decode = config, decode
        self._rewards = {name: make_reward(name, config) for name in names}
        needed = frozenset().union(*(reward.needs for reward in self._rewards.values()))
        self._flow = make_flow_engine(config) if "flow" in needed else None
        self._running: dict[str, threading.Thread] = {}
        """Thread of a call that timed out, by reward; no new call before that thread has ended."""

    def load(self) -> None:
        """Load the models of rewards that have one, before their time counts. Raises ConfigError."""
        for reward in self._rewards.values():
            if isinstance(reward, LoadsModel):
                reward.load()

    @torch.no_grad()
    def score(
        self,
        prompt: str,
        latents: Tensor,
        before: Tensor | None,
        reference: Tensor | None,
        motion_reference: Tensor | None = None,
    ) -> Scores:
        """Score the segment `latents` [G K C H W] of a group in windows of reward.window_frames.

        `before` [P C H W] are the latent frames that the segment follows, of which windows show reward.lead_frames;
        `reference` [R C H W] are the prompt's first frames, and `motion_reference` [R C H W] those of another model,
        whose motion replaces the reference's. Members share all three. Without `reference` every member's first window
        is its reference, and motion is compared with the mean over all of these. Raises ValueError where K is no whole
        number of windows.
        """
        if motion_reference is not None and reference is None:
            raise ValueError("motion_reference needs a reference: members without one set the motion together")
        frames, lead = self._config.window_frames, self._config.lead_frames
        if latents.shape[1] % frames:
            raise ConfigError(
                "reward.window_frames", frames, f"a segment of {latents.shape[1]} latent frames has no whole number of "
                "windows", "write a divisor of that length",
            )  # fmt: skip
        before = None if before is None else before[-lead:]
        decoded = latents.shape[1] + (0 if before is None else len(before))
        members = [cut_windows(member, decoded, frames, lead) for member in self._clips(prompt, latents, before)]
        if reference is None:
            firsts = tuple(member[0] for member in members)
            members = [[replace(clip, reference=member[0], motion_reference=firsts) for clip in member]
                       for member in members]  # fmt: skip
        else:
            firsts = [first for first in (reference, motion_reference) if first is not None]
            shared, *moving = (self._clips(prompt, first[None], None)[0] for first in firsts)
            members = [[replace(clip, reference=shared, motion_reference=moving) for clip in member]
                       for member in members]  # fmt: skip
        return self._call_rewards(members)

    def _clips(self, prompt: str, latents: Tensor, before: Tensor | None) -> list[Clip]:
        """Make each member's segment one clip, with the frames before it; flow of shared frames is computed once."""
        shown = latents
        if before is not None:
            shown = torch.cat([before.expand(len(latents), *before.shape), latents], dim=1)
        videos = self._decode(shown).float().cpu()  # [G T 3 H W]
        flows = [None] * len(videos)
        if self._flow is not None:
            last_before = max(shown.shape[1] - latents.shape[1] - 1, 0)
            shared = last_before * video_frames_per_latent(videos.shape[1], shown.shape[1])
            past = self._flow(videos[0, : shared + 1])
            flows = [past.followed_by(self._flow(video[shared:])) for video in videos]
        return [Clip(prompt, *parts) for parts in zip(videos, latents, flows, strict=True)]

    def _call_rewards(self, members: Sequence[Sequence[Clip]]) -> Scores:
        """Call each reward on clips [G][W]: all in one call, or one window of all members per call, by its scope."""
        values, failures, hung = {}, {}, False
        for name, reward in self._rewards.items():
            scores = torch.full((len(members), len(members[0])), torch.nan, dtype=torch.float64)
            windows = [[(row, column) for row in range(len(members))] for column in range(len(members[0]))]
            if reward.scope == "window":
                windows = [[(row, column) for row in range(len(members)) for column in range(len(members[0]))]]
            for places in windows:
                if name in self._running and self._running[name].is_alive():
                    failures[name] = "it still runs, from a call that had no answer in time"
                    break
                rows, columns = map(list, zip(*places, strict=True))
                answer = attempt(name, reward, [members[r][c] for r, c in places], self._config.timeout_s)
                scores[rows, columns] = answer.scores
                if answer.failure is not None:
                    failures[name] = answer.failure
                if answer.running is not None:
                    self._running[name], hung = answer.running, True
                    break
            values[name] = scores.tolist()
        return Scores(values, failures, hung)


def cut_windows(segment: Clip, decoded_frames: int, window_frames: int, lead_frames: int = 1) -> list[Clip]:
    """Cut `segment` into windows of `window_frames` latent frames, each with the `lead_frames` before it.

    `decoded_frames` counts the latent frames that `segment.pixels` [T 3 H W] were decoded from: those of
    `segment.latents`, and more where frames before the segment are known. The first latent frame becomes one video
    frame, every further one as many as the decoder makes (Wan 4, tiny world 1); a window shows only the last video
    frame of its oldest latent frame. Windows near the beginning have fewer frames before them.
    """
    stride = video_frames_per_latent(len(segment.pixels), decoded_frames)
    context = decoded_frames - len(segment.latents)
    cut = []
    for start in range(0, len(segment.latents), window_frames):
        latents = segment.latents[start : start + window_frames]
        first = stride * max(context + start - lead_frames, 0)
        last = stride * (context + start + len(latents) - 1)
        flow = None if segment.flow is None else segment.flow.between(first, last)
        cut.append(Clip(segment.prompt, segment.pixels[first : last + 1], latents, flow))
    return cut


def video_frames_per_latent(video_frames: int, latent_frames: int) -> int:
    """Count the video frames of each latent frame but the first, which has one.

    Raises ValueError where a decoder makes unequally many.
    """
    further = latent_frames - 1
    if (video_frames - 1) % max(further, 1) or (further == 0 and video_frames != 1):
        raise ValueError(
            f"{latent_frames} latent frames were decoded to {video_frames} frames: not one, then equally many"
        )
    return (video_frames - 1) // max(further, 1)
