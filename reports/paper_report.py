"""Make the paper's main table in the tiny world: 10, 16 and 21 horizons are its 50, 75 and 100 s of a 5 s teacher."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.generation.streaming import make_videos
from cluster.runs.display import Display
from evaluation.bootstrap import BootstrapInterval, bootstrap_mean, clear_best, ranking
from evaluation.tiny_columns import COLUMNS, tiny_columns
from models.atomic_files import write_atomic
from models.checkpoints.hub import weights_path
from models.checkpoints.weight_files import check_weights, load_weights, verify_weights
from models.network_config import StudentConfig
from models.noise import evaluation_seeds
from models.provenance import commit
from models.user_paths import user_path
from models.wan.network import Wan
from models.worlds.tiny_world import FPS, HORIZON, encode_text, spread_prompts, to_pixels
from reports.charts import STYLES, ChartText, Mark
from reports.figures import milestones, seconds_at
from reports.page import render_page
from reports.run_report import SHOWN, horizon_videos
from reports.video_page import PageCurve, PageMethod, curve_set, players

HORIZONS = (10, 16, 21)
VIDEOS = 32
_SEED = 0


def print_paper_table(students: Mapping[str, str], out: str) -> None:
    """Generate and judge VIDEOS videos of each of `students`, weights by method; print the table.

    Writes paper_table.json and report.html into `out`. Raises ConfigError.
    """
    prompts, folder = spread_prompts(VIDEOS), user_path(out, "out")
    with Display() as display:
        videos = paper_videos(
            {name: weights_path(path, "checkpoint") for name, path in students.items()},
            prompts,
            lambda name, done, frames: display(name, done, frames, "frames"),
        )
    judged = {name: judged_horizons(own, prompts) for name, own in videos.items()}
    table = paper_table(judged)
    path = folder / "paper_table.json"
    write_atomic(path, (json.dumps(table, indent=1, allow_nan=False) + "\n").encode())
    settings = {"videos": str(VIDEOS), "seed": str(_SEED)} | {
        f"checkpoint.{name}": one for name, one in students.items()
    }
    write_paper_report(folder / "report.html", table, judged, videos, settings)
    print(paper_text(table))
    print(f"table: {path}")
    print(f"report: {folder / 'report.html'}")


def paper_videos(
    students: Mapping[str, Path], prompts: Sequence[str], show: Callable[[str, int, int], None]
) -> dict[str, Tensor]:
    """Generate videos [B T 3 H W] in [0, 1] of every student, the same prompts and noise for all.

    `show` takes the student, and how many of its frames are done. Raises ConfigError.
    """
    shape = StudentConfig()
    with torch.device("meta"):
        outline = Wan(shape.wan)
    for path in students.values():  # all of them, before the first is loaded
        check_weights(path, "checkpoint", outline)
        verify_weights(path, "checkpoint")
    seeds, frames, videos = evaluation_seeds(_SEED, len(prompts)), max(HORIZONS) * HORIZON, {}
    for name, path in students.items():
        student = Wan(shape.wan).eval()
        load_weights(student, path, "checkpoint")
        latents = make_videos(
            student, shape, prompts, seeds, frames, encode_text, lambda done, name=name: show(name, done, frames)
        )
        videos[name] = to_pixels(latents)
    return videos


def judged_horizons(videos: Tensor, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Judge videos [B T 3 H W]: for each its name, prompt, and every column by horizon, over all frames up to it."""
    horizons = range(1, videos.shape[1] // HORIZON + 1)
    columns = tiny_columns(videos, prompts, HORIZON, horizons)
    return [
        {
            "name": f"video_{index:04d}",
            "prompt": prompt,
            "curves": {column: [values[column][index] for values in columns] for column in COLUMNS},
        }
        for index, prompt in enumerate(prompts)
    ]


def paper_table(judged: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Put the methods' columns at each of HORIZONS together: means, intervals, and the order they allow."""
    methods = {
        name: {
            str(horizon): {
                column: bootstrap_mean([video["curves"][column][horizon - 1] for video in videos])._asdict()
                for column in COLUMNS
            }
            for horizon in HORIZONS
        }
        for name, videos in judged.items()
    }
    orders: dict[str, dict[str, Any]] = {"rankings": {}, "best": {}}
    for name, order in (("rankings", ranking), ("best", clear_best)):
        for horizon in map(str, HORIZONS):
            orders[name][horizon] = {
                column: order(
                    {one: BootstrapInterval(**rows[horizon][column]) for one, rows in methods.items()}, "high"
                )
                for column in COLUMNS
            }
    count = len(next(iter(judged.values())))
    return {"columns": COLUMNS, "videos": count, "horizon_s": HORIZON / FPS, "methods": methods} | orders


def write_paper_report(
    path: Path, table: Mapping[str, Any], judged: Mapping[str, Sequence[Mapping[str, Any]]],
    videos: Mapping[str, Tensor], settings: Mapping[str, str],
) -> None:  # fmt: skip
    """Write report.html: the table with intervals, the columns at every horizon as curves, and the first videos."""
    segments = max(HORIZONS)
    stops = [Mark(segment * HORIZON / FPS - 1 / FPS, f"{segment}x") for segment in milestones(segments)]
    methods = [PageMethod(name, name, index % len(STYLES)) for index, name in enumerate(judged)]
    times = [stop.time_s for stop in stops[:-1]]
    shown = {name: list(horizon_videos(videos[name], judged[name], times)) for name in judged}
    texts = [
        ChartText(column, label.capitalize(), "0 to 100, 100 is best", (0.0, 100.0))
        for column, label in COLUMNS.items()
    ]
    marks = [Mark(horizon * HORIZON / FPS, f"{horizon}x") for horizon in (1, *HORIZONS[:-1])]
    curves = curve_set([PageCurve(text) for text in texts], methods, shown, SHOWN, HORIZON / FPS, marks)
    horizons = f"{', '.join(map(str, HORIZONS[:-1]))} and {HORIZONS[-1]}"
    page = render_page(
        "paper.html.j2",
        kind="paper's table, tiny world",
        commit=commit(),
        headline=f"The paper's main table in the tiny world, at {horizons} horizons",
        count=table["videos"],
        fps=FPS,
        methods=methods,
        columns=table["columns"],
        ends={str(horizon): seconds_at(horizon) for horizon in HORIZONS},
        table=table["methods"],
        best=table["best"],
        players=players(methods, shown, SHOWN),
        stops=stops,
        charts=curves.charts,
        script=curves.script | {"horizon": HORIZON / FPS},
        skipped=[],
        settings=dict(settings),
    )
    write_atomic(path, page)


def paper_text(table: Mapping[str, Any]) -> str:
    """Format the table: a line for each horizon and method, means with 95 % intervals over videos."""
    width = max(map(len, table["methods"])) + 2
    lines = [f"{'horizons':<14}{'':<{width}}" + "".join(f"{label:>24}" for label in table["columns"].values())]
    for horizon in HORIZONS:
        for name, rows in table["methods"].items():
            cells = [rows[str(horizon)][column] for column in table["columns"]]
            numbers = "".join(f"{BootstrapInterval(**cell).text(1):>24}" for cell in cells)
            lines.append(f"{f'{horizon} ({horizon * HORIZON / FPS:g} s)':<14}{name:<{width}}{numbers}")
    return "\n".join(lines)
