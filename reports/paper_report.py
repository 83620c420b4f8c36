"""Write the page of the paper's main table in the tiny world."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluation.paper_table import HORIZONS
from evaluation.tiny_columns import COLUMNS
from models.atomic_files import write_atomic
from models.provenance import commit
from models.worlds.tiny_world import FPS, HORIZON
from reports.charts import STYLES, ChartText, Mark
from reports.figures import milestones, seconds_at
from reports.page import render_page
from reports.run_report import SHOWN, horizon_videos
from reports.video_page import PageCurve, PageMethod, curve_set, players


def write_paper_report(
    path: Path, table: Mapping[str, Any], judged: Mapping[str, Sequence[Mapping[str, Any]]],
    videos: Mapping[str, Tensor], settings: Mapping[str, str],
) -> None:  # fmt: skip
    """Write the page: the table with intervals, the columns at every horizon as curves, and the first videos."""
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
