"""Measure how long a demo run's report takes: judging its videos, their numbers, and the page in one file.

python -m benchmarks.report_speed     half a minute on one core
More keys: repeats=2.

One JSON line: the seconds of the part of demo.py that follows its last video. Its videos are real ones of the tiny
world, as many and as long as a demo has, and the same with a light that fades. The first report, which imports the
drawing libraries, is not counted.
"""

import io
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.command import run
from benchmarks.line import print_line
from cluster.config.run_config import Config
from demo import METHODS, TITLES
from models.keys import KeyGroup, key
from models.worlds.tiny_world import HORIZON, sample_video
from reports.demo_report import HORIZONS, demo_prompts, write_demo_report

_FADES = {"ode": 0.4, "prefix_1": 0.7, "uniform": 0.0}
"""Share of its light that a method's video has lost at its end."""


@dataclass(kw_only=True)
class ReportSpeedOptions(KeyGroup):
    """Describes a measurement of reports."""

    repeats: int = key(2, "reports that are timed", ge=1)


def main(options: ReportSpeedOptions) -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos, frames = write_videos(Path(folder))
        timed_s = [report_s(Path(folder)) for _ in range(1 + options.repeats)][1:]
        page_bytes = Path(folder, "report.html").stat().st_size
    config = {"methods": len(TITLES), "videos": videos, "frames": frames, "torch_threads": Config().cluster.threads}
    print_line("report_s", timed_s, "s", "cpu", config, page_mb=round(page_bytes / 1e6, 3))


def write_videos(folder: Path) -> tuple[int, int]:
    """Write the videos of every stage as demo.py does; return how many there are in all, and the frames of each."""
    prompts, frames, generator = demo_prompts(), HORIZONS * HORIZON, torch.Generator().manual_seed(0)
    real = torch.stack([sample_video(prompt, frames, generator) for prompt in prompts])
    fading = torch.linspace(0, 1, frames)[:, None, None, None]
    for name in TITLES:
        (folder / name).mkdir()
        pixels = (real * (1 - _FADES[name] * fading) * 255).round().byte()
        save_file({"video": pixels}, folder / name / "videos.safetensors")
    return len(TITLES) * len(prompts), frames


def report_s(folder: Path) -> float:
    """Return the seconds that one report takes."""
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        write_demo_report(Config(run_dir=str(folder)), TITLES, {name: vars(one) for name, one in METHODS.items()})
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main, __doc__, ReportSpeedOptions)
