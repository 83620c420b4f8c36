"""All rewards of a folder of videos, before anything is trained on them."""

import sys

from rewards.arguments import USAGE, parse

if __name__ == "__main__" and {"--help", "-h"} & set(sys.argv[1:]):
    print(USAGE)
    sys.exit(0)

# torch takes seconds to import, help should not.
import logging
import math
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rewards.attempt import attempt
from rewards.clip import Clip
from rewards.clips import adversarial_clips, reference_clip
from rewards.config import RewardConfig
from rewards.engines import flow_engine
from rewards.flow import FlowEngine, motion
from rewards.flow_pictures import SHOWN, draw_strip
from rewards.registry import SHIPPED, make_rewards
from rewards.reward import Reward
from rewards.video_files import Video, read_videos, video_files

Row = dict[str, float]
"""Score by reward."""
_SCREEN_COLUMNS = 200
"""Written to a file, the table is this wide."""


def main(arguments: list[str]) -> None:
    options, config = parse(arguments)
    files = [] if options.videos is None else video_files(options.videos)
    names = [name for name in SHIPPED if name != "remote" or config.url is not None]
    names += [name for name in config.terms if name not in SHIPPED]
    rewards, flow = make_rewards(names, config), flow_engine(config)
    # Failures stand below the table, once.
    logging.getLogger("rewards.attempt").setLevel(logging.ERROR)
    failures: dict[str, str] = {}
    if options.clips:
        _show("adversarial clips", _adversarial(rewards, flow, config, failures), names, failures)
    rows = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=len(files))
        for path in files:
            progress.update(task, description=path.name)
            for video in read_videos(path):
                out = Path(options.out or options.videos)
                clips = _clips(video, config, flow)
                rows[video.name] = _means(rewards, clips, config, failures)
                _picture(out / f"{video.name}.flow.png", video, clips, config)
            progress.advance(task)
    if files:
        _show(f"mean over windows of {config.window_frames} frames", rows, names, failures)
        print(f"pictures of the flow: {options.out or options.videos}")


def _clips(video: Video, config: RewardConfig, flow: FlowEngine) -> list[Clip]:
    """Windows of a video, each held against the first; what is left at its end is no window."""
    frames, length = config.window_frames, len(video.frames)
    if length < frames:
        raise ValueError(f"{video.name} has {length} frames, fewer than reward.window_frames={frames}; lower that key")
    clips = []
    for start in range(0, length - frames + 1, frames):
        pixels = video.frames[max(start - 1, 0) : start + frames].float() / 255
        clips.append(Clip(video.prompt, pixels, torch.zeros(0), flow(pixels)))
    return [replace(clip, reference=clips[0]) for clip in clips]


def _means(rewards: dict[str, Reward], clips: list[Clip], config: RewardConfig, failures: dict[str, str]) -> Row:
    """Mean of the scores that there are; NaN where there are none."""
    row = {}
    for name, reward in rewards.items():
        answer = attempt(name, reward, clips, config.timeout_s)
        if answer.failure is not None:
            failures[name] = answer.failure
        row[name] = answer.scores.nanmean().item()
    return row


def _adversarial(
    rewards: dict[str, Reward], flow: FlowEngine, config: RewardConfig, failures: dict[str, str]
) -> dict[str, Row]:
    pixels = reference_clip()
    reference = Clip("", pixels, torch.zeros(0), flow(pixels))
    rows = {}
    for name, pixels in adversarial_clips().items():
        clip = Clip("", pixels, torch.zeros(0), flow(pixels), reference)
        rows[name] = _means(rewards, [clip], config, failures)
    return rows


def _picture(path: Path, video: Video, clips: list[Clip], config: RewardConfig) -> None:
    flow = torch.cat([clip.flow.forward for clip in clips])
    moved = torch.cat([motion(clip.flow, config.top_share)[0] for clip in clips])
    if not len(flow):
        return
    shown = torch.linspace(0, len(flow) - 1, min(SHOWN, len(flow))).round().long()
    borders = [config.window_frames * (number + 1) - 1 for number in range(len(clips))]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_strip(path, video.name, video.frames[shown].float() / 255, flow[shown], moved, borders)


def _show(title: str, rows: dict[str, Row], names: list[str], failures: dict[str, str]) -> None:
    table = Table("", *names, title=title)
    for name, row in rows.items():
        table.add_row(name, *("-" if math.isnan(row[reward]) else f"{row[reward]:.3f}" for reward in names))
    console = Console()
    console = console if console.is_terminal else Console(width=_SCREEN_COLUMNS)
    console.print(table)
    for name, failure in failures.items():
        console.print(f"- {name}: {failure}", markup=False)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"rewards.try: {error}", file=sys.stderr)
        sys.exit(2)
