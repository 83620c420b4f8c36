"""Make the paper's main table in the tiny world: 10, 16 and 21 horizons are its 50, 75 and 100 s of a 5 s teacher."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from actors.generation.streaming import make_videos
from cluster.runs.display import Display
from evaluation.bootstrap import BootstrapInterval, bootstrap_mean
from evaluation.tiny_columns import COLUMNS, tiny_columns
from models.atomic_files import write_atomic
from models.checkpoints.weight_files import check_weights, load_weights
from models.network_config import StudentConfig
from models.noise import evaluation_seeds
from models.user_paths import user_path
from models.wan.network import Wan
from models.worlds.tiny_world import FPS, HORIZON, encode_text, spread_prompts, to_pixels

HORIZONS = (10, 16, 21)
VIDEOS = 32
_SEED = 0


def paper_table(
    students: Mapping[str, Path], show: Callable[[str, int, int], None] = lambda student, done, frames: None
) -> dict[str, Any]:
    """Generate and judge VIDEOS videos of each student, the same prompts and noise for all. Raises ConfigError.

    `show` takes the student, and how many of its frames are done.
    """
    shape = StudentConfig()
    with torch.device("meta"):
        outline = Wan(shape.wan)
    for path in students.values():  # all of them, before the first is loaded
        check_weights(path, "checkpoint", outline)
    prompts, seeds = spread_prompts(VIDEOS), evaluation_seeds(_SEED, VIDEOS)
    frames, methods = max(HORIZONS) * HORIZON, {}
    for name, path in students.items():
        student = Wan(shape.wan).eval()
        load_weights(student, path, "checkpoint")
        latents = make_videos(
            student, shape, prompts, seeds, frames, encode_text, lambda done, name=name: show(name, done, frames)
        )
        columns = tiny_columns(to_pixels(latents), prompts, HORIZON, HORIZONS)
        methods[name] = {
            str(horizon): {column: bootstrap_mean(values)._asdict() for column, values in by_column.items()}
            for horizon, by_column in zip(HORIZONS, columns, strict=True)
        }
    return {"columns": COLUMNS, "videos": VIDEOS, "horizon_s": HORIZON / FPS, "methods": methods}


def print_paper_table(students: Mapping[str, str], out: str) -> None:
    """Make the table of `students`, weights by method; write OUT/paper_table.json and print it. Raises ConfigError."""
    with Display() as display:
        table = paper_table(
            {name: user_path(path, "checkpoint") for name, path in students.items()},
            lambda name, done, frames: display(name, done, frames, ""),
        )
    path = user_path(out, "out") / "paper_table.json"
    write_atomic(path, (json.dumps(table, indent=1, allow_nan=False) + "\n").encode())
    print(paper_text(table))
    print(f"table: {path}")


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
