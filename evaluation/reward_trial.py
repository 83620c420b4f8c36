"""Score a folder of videos with every reward, before anything is trained on them."""

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from evaluation.adversarial_clips import adversarial_clips, reference_clip
from evaluation.flow_pictures import SHOWN, Strip, draw_strip
from evaluation.video_files import Video, read_videos, video_files
from rewards.attempt import attempt
from rewards.flow.flow_motion import pair_motion
from rewards.flow.optical_flow import FlowEngine
from rewards.registry import make_flow_engine, make_rewards
from rewards.reward import Clip, Reward
from rewards.reward_config import SHIPPED, RewardConfig

Row = dict[str, float]
"""Score by reward."""
_COLUMNS = 40
"""Of a table that goes to a file: beside the rewards' names."""


def score_videos(config: RewardConfig, videos: str | None = None, out: str | None = None, clips: bool = False) -> None:
    """Score every video and draw its optical flow. Raises ValueError, in one line, for a mistake of the user's."""
    files = video_files(videos) if videos else []
    names = [name for name in SHIPPED if name != "remote" or config.url is not None]
    names += [name for name in config.weights if name not in SHIPPED]
    panel = Panel(make_rewards(names, config), config)
    flow = make_flow_engine(config)
    if clips:
        _show("adversarial clips", _adversarial(panel, flow), panel)
    if not files:
        return
    folder, rows, bad = Path(out or videos), {}, []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(files))
        for path in files:
            try:
                for video in read_videos(path):
                    progress.update(task, description=video.name)
                    rows[video.name], strip = _try(video, panel, flow)
                    if strip is not None:
                        draw_strip(folder / f"{video.name}.flow.png", video.name, strip)
            except ValueError as error:  # the other files are as good as before
                bad.append(str(error))
            progress.advance(task)
    if rows:
        _show(f"mean over windows of {config.window_frames} frames", rows, panel)
        print(f"pictures of the flow: {folder}")
        for name in config.terms:
            if all(math.isnan(row[name]) for row in rows.values()):
                bad.append(f"reward.terms has {name}, and it scored nothing: {panel.failures.get(name, 'all NaN')}")
    if bad:
        raise ValueError("; ".join(bad))


@dataclass
class Panel:
    """The rewards that are tried, and why one of them could not tell."""

    rewards: dict[str, Reward]
    config: RewardConfig
    failures: dict[str, str] = field(default_factory=dict)
    _hung: list[Reward] = field(default_factory=list, init=False)

    def ask(self, clip: Clip) -> list[float]:
        """What every reward makes of one clip; one that hung is not asked again."""
        return [self._ask(name, reward, clip) for name, reward in self.rewards.items()]

    def _ask(self, name: str, reward: Reward, clip: Clip) -> float:
        if reward in self._hung:
            return math.nan
        answer = attempt(name, reward, [clip], self.config.timeout_s)
        if answer.failure is not None:
            self.failures[name] = answer.failure
        if answer.hung:
            self._hung.append(reward)
        return answer.scores.item()


def _try(video: Video, panel: Panel, flow: FlowEngine) -> tuple[Row, Strip | None]:
    """Mean scores of a video's windows, each held against the first, and its flow over time.

    What is left at the end is no window. One window is held at a time: flow is larger than a video.
    """
    frames, length = panel.config.window_frames, len(video.frames)
    starts = range(0, length - frames + 1, frames)
    if not starts:
        raise ValueError(f"{video.name} has {length} frames, fewer than reward.window_frames={frames}; lower that key")
    shown = torch.linspace(0, starts[-1] + frames - 2, SHOWN).round().long().unique()
    scores, strip, reference = [], Strip([], [], [], list(starts[1:])), None
    for start in starts:
        first, own = max(start - panel.config.lead_frames, 0), max(start - 1, 0)
        pixels = video.frames[first : start + frames].float() / 255
        clip = Clip(video.prompt, pixels, torch.zeros(0), flow(pixels))
        reference = reference or clip
        scores.append(panel.ask(replace(clip, reference=reference)))
        strip.motion.extend(pair_motion(clip.flow, panel.config)[0][own - first :].tolist())
        here = shown[(shown >= own) & (shown < start + frames - 1)] - first
        strip.frames.extend(pixels[here])
        strip.flow.extend(clip.flow.forward[here])
    means = torch.tensor(scores, dtype=torch.float64).nanmean(0).tolist()
    return dict(zip(panel.rewards, means, strict=True)), strip if strip.motion else None


def _adversarial(panel: Panel, flow: FlowEngine) -> dict[str, Row]:
    pixels = reference_clip()
    reference, rows = Clip("", pixels, torch.zeros(0), flow(pixels)), {}
    for name, pixels in adversarial_clips().items():
        scores = panel.ask(Clip("", pixels, torch.zeros(0), flow(pixels), reference))
        rows[name] = dict(zip(panel.rewards, scores, strict=True))
    return rows


def _show(title: str, rows: dict[str, Row], panel: Panel) -> None:
    table = Table("", *(Column(name, overflow="fold") for name in panel.rewards), title=title)
    for name, row in rows.items():
        table.add_row(name, *("-" if math.isnan(score) else f"{score:.3f}" for score in row.values()))
    width = None if sys.stdout.isatty() else _COLUMNS + sum(len(name) + 3 for name in panel.rewards)
    console = Console(width=width)
    console.print(table)
    for name, failure in panel.failures.items():
        console.print(f"- {name}: {failure}", markup=False)
