"""Nothing happens at latent frame 1024, where Wan's table of positions ends: the shipped student goes on as before."""

from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from einops import reduce
from torch import Tensor

import models.wan.network
from models.wan.rope import rotary_positions
from models.worlds.tiny_judge import judge
from models.worlds.tiny_prompts import PROMPTS
from tests.fakes.commands import run_script

ROWS = 1024
"""Of the table of diffusers and of the original code."""
HORIZON = 12
CHOSEN = PROMPTS[::18]
SEEDS = range(4)


def videos(folder: Path, frames: int) -> Tensor:
    """What generate.py makes, [B T 3 12 12] in [0, 1]: every prompt with every seed, prompts first."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("\n".join(CHOSEN))
    arguments = [f"prompts={folder}/prompts.txt", f"seeds={list(SEEDS)}", "batch=16", f"seconds={frames / 16}"]
    assert run_script("generate.py", "preset=tiny", *arguments, f"out={folder}/videos") == 0
    return torch.stack([filmed(path) for path in sorted((folder / "videos").glob("*.mp4"))])


def filmed(path: Path) -> Tensor:
    """The frames of a file as they were before they were enlarged."""
    with av.open(str(path)) as file:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    small = [reduce(frame.float(), "(h p) (w q) c -> c h w", "mean", p=16, q=16) for frame in frames]
    return torch.stack(small) / 255


def surprise(of_frames: Tensor) -> float:
    """How far a statistic [B T], horizon by horizon, jumps at frame 1024, in units of its jumps everywhere else."""
    begin = ROWS % HORIZON
    horizons = (of_frames.shape[1] - begin) // HORIZON
    segments = of_frames[:, begin : begin + horizons * HORIZON].unflatten(1, (horizons, HORIZON)).mean(dim=(0, 2))
    jumps = segments.diff()
    here = (ROWS - begin) // HORIZON - 1
    elsewhere = torch.cat([jumps[:here], jumps[here + 1 :]])
    return (jumps[here].abs() / elsewhere.square().mean().sqrt()).item()


def surprises(video: Tensor) -> dict[str, float]:
    verdict = judge(video, [prompt for prompt in CHOSEN for _ in SEEDS])
    steps = video.diff(dim=1, prepend=video[:, :1]).square().mean(dim=(2, 3, 4)).sqrt()
    of_frames = {
        "mean": video.mean(dim=(2, 3, 4)), "deviation": video.std(dim=(2, 3, 4)), "motion": steps,
        "error": verdict.error, "valid": verdict.valid.float(),
    }  # fmt: skip
    return {name: surprise(statistic) for name, statistic in of_frames.items()}


@pytest.mark.proof
@pytest.mark.slow
def test_frames_0_to_3000_are_generated_and_no_statistic_changes_at_1024(tmp_path):
    video = videos(tmp_path / "long", 3001)
    assert video.shape == (16, 3001, 3, 12, 12)
    found = surprises(video)
    assert max(found.values()) <= 3, found


def wrapped(position: int) -> int:
    return position % ROWS


def stopped(position: int) -> int:
    return min(position, ROWS - 1)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("place", [wrapped, stopped])
def test_a_table_that_wraps_or_stops_at_1024_would_be_seen(place: Callable[[int], int], tmp_path, monkeypatch):
    def from_a_table(config, start: int, frames: int, height: int, width: int, like: Tensor) -> tuple[Tensor, ...]:
        rows = [rotary_positions(config, place(start + frame), 1, height, width, like) for frame in range(frames)]
        return tuple(torch.cat(tables) for tables in zip(*rows, strict=True))

    monkeypatch.setattr(models.wan.network, "rotary_positions", from_a_table)
    found = surprises(videos(tmp_path / "wrong", 1200))
    assert found["motion"] > 4
