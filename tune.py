"""Scan keys of stage dmd with Ray Tune: first of all the law that windows are drawn by.

One student of stage ode, then a trial for every combination of values and every seed, each in a process of its own, or
with cluster= as a whole run on Ray, and in an ordinary run folder; then scan.csv and a report that compares them.

python tune.py [key=value ...] [key=value,value ...]

Trains every combination of the values on every seed; without any, the ablation of Self-Forcing++ in the tiny world, in
less than half an hour on two cores. Writes scan.csv and report.html into run_dir (runs/scan).
The same command again continues where it stopped; with more values or seeds, it trains the new trials only. A trial is
one process; with cluster= it is a run on Ray, as many at once as are sure to have room (dry_run=true prints how many).
  python tune.py window=uniform,beta_early,prefix
  python tune.py scan.over='{window: [uniform, prefix], dmd.optimizer.lr: [1e-4, 2e-4]}' scan.seeds=[0]
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import settings
from cluster.config.scan_config import Scan

if TYPE_CHECKING:
    from cluster.tuning.trials import Trial


def read_scan(arguments: Sequence[str]) -> "tuple[Scan, list[Trial]]":
    """Read the scan and its trials from a command line. Raises ConfigError."""
    from settings.scan_arguments import plan

    return plan(arguments)


def run(scan: Scan, trials: "Sequence[Trial]") -> dict[str, str]:
    """Train the unfinished trials, each from its checkpoint; returns reasons of failures, by trial name."""
    from cluster.bootstrap.ray_environment import settle_environment
    from cluster.launch import launch
    from cluster.runs.run_folder import RunFolder
    from train import dmd, ode

    if "ode" in scan.stages:
        launch(ode, scan)
    waiting = [trial for trial in trials if trial.folder.state == "unfinished"]
    with RunFolder(scan.run_dir).locked():
        if not waiting:
            return {}
        settle_environment(scan.cluster)
        from cluster.tuning.ray_tune import tune_trials  # only now: ray reads its environment when imported

        return tune_trials(dmd, scan, trials, waiting)


def main(scan: Scan, trials: "Sequence[Trial]") -> int:
    """Print the plan for dry_run; else train and compare. Returns the exit status."""
    from cluster.runs.run_folder import RunFolder
    from reports import scan_report

    with settings.user_errors():
        if scan.dry_run:
            print(scan_report.scan_overview(scan, trials))
            return 0
        scan = settings.prepare_run(scan, on_ray=True)
        trials = [replace(trial, config=settings.with_weights(trial.config)) for trial in trials]
        for trial in trials:
            RunFolder(trial.config.run_dir).claim(trial.config)
    with settings.run_errors(scan.run_dir):
        failures = run(scan, trials)
    scan_report.write_scan_report(scan, trials)
    print(f"report: {Path(scan.run_dir, 'report.html')}")
    for name, reason in failures.items():
        print(f"tune.py: {name} failed: {reason}; the same command tries it again", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*settings.arguments(Scan(run_dir="runs/scan"), __doc__, read_scan, fixed=("stage", "debug."))))
