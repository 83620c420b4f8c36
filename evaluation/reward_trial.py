"""Score a folder of videos with every reward, before a run is trained on them (`python -m rewards.try`)."""

import math
import sys
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from torch import Tensor

from evaluation.adversarial_clips import adversarial_clips, reference_clip
from evaluation.flow_pictures import SHOWN, Strip, draw_strip
from evaluation.video_files import Video, read_videos, video_files
from models.errors import ConfigError, StopsRun
from models.user_paths import user_path
from models.worlds.tiny_world import SIZE
from rewards.attempt import attempt
from rewards.flow.flow_motion import pair_motion
from rewards.flow.optical_flow import FlowEngine
from rewards.registry import make_flow_engine, make_reward
from rewards.reward import Clip, Reward
from rewards.reward_config import SHIPPED, RewardConfig

Row = dict[str, float]
"""Score by reward."""
_TINY = frozenset(name for name, path in SHIPPED.items() if path.startswith("rewards.tiny."))
_COLUMNS = 40
"""Width of a table that goes to a file, without the rewards' names."""


class TrialMistakes(StopsRun):
    """Lists in one line the files and rewards of a trial that gave no score."""

    status = 2


def score_videos(config: RewardConfig, videos: str | None, out: str, clips: bool = False) -> None:
    """Score the videos of a folder and draw their optical flow into `out`; with `clips` the adversarial clips, too.

    Raises ConfigError, and TrialMistakes for files that cannot be scored, after the others were.
    """
    files = video_files(videos) if videos else []
    ready = [name for name in SHIPPED if not config.learned.missing(name)]
    names = [name for name in ready if name != "remote" or config.url is not None]
    names += [name for name in config.weights if name not in SHIPPED]
    panel = RewardPanel({name: make_reward(name, config) for name in names}, config)
    flow = make_flow_engine(config)
    if clips:
        reference, rows = _flow_clip("", reference_clip(), flow), {}
        for name, pixels in adversarial_clips().items():
            scores = panel.score(replace(_flow_clip("", pixels, flow), reference=reference))
            rows[name] = dict(zip(panel.rewards, scores, strict=True))
        _print_table("adversarial clips", rows, panel)
    if not files:
        return
    folder, rows, mistakes = user_path(out, "out"), {}, []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(files))
        for path in files:
            try:
                for video in read_videos(path):
                    progress.update(task, description=video.name)
                    rows[video.name], strip = _score_video(video, panel, flow)
                    if strip.motion:
                        draw_strip(folder / f"{video.name}.flow.png", video.name, strip)
            except ConfigError as error:  # costs the other files nothing
                mistakes.append(str(error))
            progress.advance(task)
    if rows:
        _print_table(f"mean over windows of {config.window_frames} frames", rows, panel)
        print(f"pictures of the flow: {folder}")
        for name in config.terms:
            if all(math.isnan(row[name]) for row in rows.values()):
                why = panel.failures.get(name, "all NaN")
                mistakes.append(str(ConfigError("reward.terms", name, f"it scored nothing ({why})", "leave it out")))
    if mistakes:
        raise TrialMistakes(" ".join(mistakes))


@dataclass
class RewardPanel:
    """Holds the rewards on trial, and the last reason of each for a missing score."""

    rewards: dict[str, Reward]
    config: RewardConfig
    failures: dict[str, str] = field(default_factory=dict)
    _hung: list[str] = field(default_factory=list, init=False)

    def score(self, clip: Clip) -> list[float]:
        """Score one clip by every reward; NaN for a reward that failed, or that hung once."""
        scores = []
        for name, reward in self.rewards.items():
            if name in _TINY and clip.pixels.shape[2:] != (SIZE, SIZE):
                self.failures[name] = f"judges frames of {SIZE} x {SIZE} only, as generate.py enlarge=1 writes them"
                scores.append(math.nan)
                continue
            if name in self._hung:
                scores.append(math.nan)
                continue
            answer = attempt(name, reward, [clip], self.config.timeout_s)
            if answer.failure is not None:
                self.failures[name] = answer.failure
            if answer.running is not None:
                self._hung.append(name)
            scores.append(answer.scores.item())
        return scores


def _flow_clip(prompt: str, pixels: Tensor, flow: FlowEngine) -> Clip:
    return Clip(prompt, pixels, torch.zeros(0), flow(pixels))


def _score_video(video: Video, panel: RewardPanel, flow: FlowEngine) -> tuple[Row, Strip]:
    """Average the scores of a video's windows, each against the first, and collect its flow over time.

    Frames after the last whole window are left out. One window is held at a time: flow is larger than a video.
    """
    frames, length = panel.config.window_frames, len(video.frames)
    starts = range(0, length - frames + 1, frames)
    if not starts:
        raise ConfigError("reward.window_frames", frames, f"{video.name} has {length} frames only",
                          f"write reward.window_frames={length} or less")  # fmt: skip
    shown = torch.linspace(0, starts[-1] + frames - 2, SHOWN).round().long().unique()
    scores, strip, reference = [], Strip([], [], [], list(starts[1:])), None
    for start in starts:
        first, own = max(start - panel.config.lead_frames, 0), max(start - 1, 0)
        pixels = video.frames[first : start + frames].float() / 255
        clip = _flow_clip(video.prompt, pixels, flow)
        reference = reference or clip
        scores.append(panel.score(replace(clip, reference=reference)))
        strip.motion.extend(pair_motion(clip.flow, panel.config)[0][own - first :].tolist())
        drawn = shown[(shown >= own) & (shown < start + frames - 1)] - first
        strip.frames.extend(pixels[drawn])
        strip.flow.extend(clip.flow.forward[drawn])
    means = torch.tensor(scores, dtype=torch.float64).nanmean(0).tolist()
    return dict(zip(panel.rewards, means, strict=True)), strip


def _print_table(title: str, rows: dict[str, Row], panel: RewardPanel) -> None:
    shown = [name for name in panel.rewards if not all(math.isnan(row[name]) for row in rows.values())]
    table = Table("", *(Column(name, overflow="fold") for name in shown), title=title)
    for name, row in rows.items():
        table.add_row(name, *("-" if math.isnan(row[one]) else f"{row[one]:.3f}" for one in shown))
    width = None if sys.stdout.isatty() else _COLUMNS + sum(len(name) + 3 for name in shown)
    console = Console(width=width)
    console.print(table)
    for name, failure in panel.failures.items():
        console.print(f"- {name}: {failure}", markup=False)
