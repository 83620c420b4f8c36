"""Write the report of a scan: scan.csv, and report.html in one file, which compares its trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.config.scan_config import Scan
from cluster.planning import placement
from cluster.tuning.trial_capacity import expected_at_once
from cluster.tuning.trials import Trial
from models.atomic_files import write_atomic
from models.provenance import commit
from models.worlds.tiny_world import FPS, HORIZON
from reports.charts import ChartLine, Mark, TimeAxis, line_chart
from reports.dry_run import place
from reports.figures import CURVES, chart_text, horizon_marks, milestones, percent, seconds_at, still_address
from reports.page import flat_settings, render_page
from reports.scan_results import ScanArm, arms_of, scan_table, write_csv
from reports.video_page import PageMethod, cursor_script

SHOWN = 4
"""Videos in the report: the first ones."""


def scan_overview(scan: Scan, trials: Sequence[Trial]) -> str:
    """Describe the trials of a scan and the room that each takes, for `dry_run`.

    Raises ValueError for a trial that the cluster could never hold.
    """
    placement.check(scan)
    inline = scan.cluster.kind == "inline"
    roles = [placement.Role("trial", 1, scan.scan.cpus, 0.0)] if inline else placement.roles(scan)
    arms = arms_of(trials)
    lines = [f"{len(trials)} trials of {scan.dmd.steps} updates in {scan.run_dir}, each of them"]
    lines += [place(role) for role in roles] + [expected_at_once(scan.cluster, roles, scan.scan.at_once)]
    lines += [f"  {arm.title}: seeds {', '.join(str(trial.config.seed) for trial in arm.trials)}" for arm in arms]
    return "\n".join(lines)


def write_scan_report(scan: Scan, trials: Sequence[Trial]) -> None:
    """Write scan.csv and, once a trial is finished, report.html; print the table."""
    folder, arms = Path(scan.run_dir), arms_of(trials)
    write_csv(folder / "scan.csv", trials)
    print(scan_table(arms))
    if any(arm.finished for arm in arms):
        write_atomic(folder / "report.html", _page(scan, trials, arms))


def scan_headline(arms: Sequence[ScanArm]) -> str:
    """State the valid frames at the end, arm by arm, in the scan's order."""
    segments = len(arms[0].means("validity"))
    shares = [f"{percent(arm.at('validity', segments).mean)} with {arm.title}" for arm in arms]
    when = f"{seconds_at(segments)}, {segments}\u00d7 the teacher's horizon"
    return f"Valid frames after {when}: {', '.join(shares)}"


def _page(scan: Scan, trials: Sequence[Trial], arms: Sequence[ScanArm]) -> bytes:
    finished = [arm for arm in arms if arm.finished]
    segments = milestones(len(finished[0].means("validity")))
    shown = {arm.title: next(trial for trial in arm.trials if trial.folder.state == "finished") for arm in finished}
    states = Counter(trial.folder.state for trial in trials)
    lengths = {trial.config.rollout.frames for trial in trials}
    training_frames = lengths.pop() if len(lengths) == 1 else None
    step_s = HORIZON / FPS
    axis = TimeAxis(step_s, segments[-1] * step_s, horizon_marks(training_frames))
    lines = {curve.key: [_line(arm, curve.key) for arm in finished] for curve in CURVES}
    values = {key: [[line.values for line in drawn]] for key, drawn in lines.items()}
    return render_page(
        "scan.html.j2",
        kind="scan, tiny world",
        headline=scan_headline(finished),
        commit=commit(),
        trials=trials,
        arms=[PageMethod(arm.title, arm.title, arm.tone) for arm in arms],
        methods=[PageMethod(arm.title, arm.title, arm.tone) for arm in finished],
        segments=[(segment, seconds_at(segment)) for segment in segments],
        stops=[Mark((segment - 0.5) * step_s, f"{segment}x") for segment in segments],
        numbers=[(curve, [(arm, [arm.at(curve.key, n) for n in segments]) for arm in finished]) for curve in CURVES],
        seeds=scan.scan.seeds,
        states=", ".join(f"{count} {state}" for state, count in states.items()),
        videos=scan.scan.videos,
        charts=[line_chart(chart_text(curve), [lines[curve.key]], axis) for curve in CURVES],
        script=cursor_script(axis, values) | {"horizon": step_s},
        prompts=next(iter(shown.values())).folder.scores["prompts"][:SHOWN],
        strips={
            title: [
                [still_address(video[segment * HORIZON - 1]) for segment in segments]
                for video in trial.folder.video[:SHOWN]
            ]
            for title, trial in shown.items()
        },
        paired={arm.title: arm.above(finished[0], "validity") for arm in finished[1:]},
        rows=[_row(trial) for trial in trials],
        measured_horizons=scan.scan.measured_horizons,
        measured_videos=scan.scan.measured_videos,
        settings=dict(flat_settings(asdict(scan), unsplit=("scan",))),
    )


def _line(arm: ScanArm, metric: str) -> ChartLine:
    """Draw the mean over seeds, with a band from the least to the largest of them."""
    low, high = arm.extremes(metric) if len(arm.finished) > 1 else ((), ())
    return ChartLine(arm.means(metric), arm.tone, low, high)


def _row(trial: Trial) -> dict[str, str]:
    """Format a trial's line of the table of trials."""
    folder, row = trial.folder, {"name": trial.name, "state": trial.folder.state, "seconds": "", "validity": ""}
    last = folder.measurements[-1:]
    row |= {"updates": f"{last[0]['step']:.0f}" if last else "0", "drift": f"{last[0]['drift']:.3f}" if last else ""}
    if folder.state == "finished":
        spent = folder.scores["cpu_seconds"]
        row["seconds"] = "" if spent is None else f"{spent:.0f}"
        row["validity"] = f"{folder.scores['metrics']['validity'][-1]:.3f}"
    return row
