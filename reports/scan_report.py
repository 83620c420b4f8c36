"""What a scan leaves to read: scan.csv, and report.html in one file, which compares its trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.config.scan_config import Scan
from cluster.planning.dry_run import place
from cluster.runs.provenance import commit
from cluster.tuning.trial_capacity import expected_at_once, trial_roles
from cluster.tuning.trials import Trial
from models.atomic_files import write_whole
from models.worlds.tiny_world import HORIZON
from reports.figures import CURVES, ChartLine, data_address, line_chart, milestones, percent, seconds_at
from reports.scan_results import ScanArm, arms_of, scan_table, write_csv

SHOWN = 4
"""Videos in the report: the first ones."""
_DASHES = ("none", "8 4", "3 3", "10 4 2 4", "10 2 2 2 2 2", "none", "8 4", "3 3")
"""Of the legend, as in `report_figures.LINES`."""


def scan_overview(scan: Scan, trials: Sequence[Trial]) -> str:
    """What `dry_run` says."""
    arms = arms_of(trials)
    lines = [f"{len(trials)} trials of {scan.dmd.steps} updates in {scan.run_dir}, each of them"]
    lines += [place(role) for role in trial_roles(scan)] + [expected_at_once(scan)]
    lines += [f"  {arm.title}: seeds {', '.join(str(trial.config.seed) for trial in arm.trials)}" for arm in arms]
    return "\n".join(lines)


def write_scan_report(scan: Scan, trials: Sequence[Trial]) -> None:
    """Write scan.csv and, once a trial is finished, report.html; print the table."""
    folder, arms = Path(scan.run_dir), arms_of(trials)
    write_csv(folder / "scan.csv", trials)
    print(scan_table(arms))
    if any(arm.finished for arm in arms):
        write_whole(folder / "report.html", _page(scan, trials, arms).encode())


def scan_headline(told: Sequence[ScanArm]) -> str:
    """What is left at the end, arm by arm, in the scan's order: which of them is better is for the reader to say."""
    segments = len(told[0].means("validity"))
    shares = [f"{percent(arm.at('validity', segments).mean)} with {arm.title}" for arm in told]
    when = f"{seconds_at(segments)}, {segments}\u00d7 the teacher's horizon"
    return f"Valid frames after {when}: {', '.join(shares)}"


def _page(scan: Scan, trials: Sequence[Trial], arms: Sequence[ScanArm]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent.parent / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = [arm for arm in arms if arm.finished]
    segments = milestones(len(told[0].means("validity")))
    shown = {arm.title: _first_finished(arm) for arm in told}
    states = Counter(trial.folder.state for trial in trials)
    paired = {arm.title: arm.above(told[0], "validity") for arm in told[1:]}
    return environment.get_template("scan.html.j2").render(
        headline=scan_headline(told),
        commit=commit(),
        trials=trials,
        arms=arms,
        told=told,
        seeds=scan.scan.seeds,
        states=", ".join(f"{count} {state}" for state, count in states.items()),
        videos=scan.scan.videos,
        dashes=_DASHES,
        segments=[(segment, seconds_at(segment)) for segment in segments],
        curves=CURVES,
        charts={curve.key: line_chart(curve, _lines(told, curve.key), _training_frames(trials)) for curve in CURVES},
        prompts=next(iter(shown.values())).folder.scores["prompts"][:SHOWN],
        strips={title: _strips(trial, segments) for title, trial in shown.items()},
        paired=paired,
        rows=[_row(trial) for trial in trials],
        measured_horizons=scan.scan.measured_horizons,
        measured_videos=scan.scan.measured_videos,
        settings=dict(_flat(asdict(scan))),
    )


def _lines(told: Sequence[ScanArm], metric: str) -> list[ChartLine]:
    return [
        ChartLine(arm.means(metric), arm.tone, arm.extremes(metric) if len(arm.finished) > 1 else None) for arm in told
    ]


def _training_frames(trials: Sequence[Trial]) -> int | None:
    """How long the training rollouts were, where that was the same in all trials."""
    frames = {trial.config.rollout.frames for trial in trials}
    return frames.pop() if len(frames) == 1 else None


def _first_finished(arm: ScanArm) -> Trial:
    return next(trial for trial in arm.trials if trial.folder.state == "finished")


def _strips(trial: Trial, segments: Sequence[int]) -> list[list[str]]:
    """Image addresses by video and segment: the last frame of each."""
    videos = trial.folder.video[:SHOWN]
    return [[data_address(video[segment * HORIZON - 1], 6) for segment in segments] for video in videos]


def _row(trial: Trial) -> dict[str, str]:
    folder, row = trial.folder, {"name": trial.name, "state": trial.folder.state, "seconds": "", "validity": ""}
    last = folder.measurements[-1:]
    row |= {"updates": f"{last[0]['step']:.0f}" if last else "0", "drift": f"{last[0]['drift']:.3f}" if last else ""}
    if folder.state == "finished":
        spent = folder.scores["cpu_seconds"]
        row["seconds"] = "" if spent is None else f"{spent:.0f}"
        row["validity"] = f"{folder.scores['metrics']['validity'][-1]:.3f}"
    return row


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in settings.items():
        if isinstance(value, dict) and value and prefix != "scan.":
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return found
