"""Make the paper's main table in the tiny world: 10, 16 and 21 horizons are its 50, 75 and 100 s of a 5 s teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from evaluation.bootstrap import BootstrapInterval, bootstrap_mean, clear_best, ranking
from evaluation.tiny_columns import COLUMNS, tiny_columns
from models.worlds.tiny_world import FPS, HORIZON

HORIZONS = (10, 16, 21)
"""Lengths of the table's videos, in teacher horizons."""


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
