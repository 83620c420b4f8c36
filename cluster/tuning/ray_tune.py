"""Run the trials of a scan on Ray Tune: each declares its resources, ASHA stops weak ones, lost ones restart.

A trial is one process (cluster=inline), or a driver in one that makes a whole run on the same Ray.

Tune keeps the state of an experiment as pickles, which nothing reads: every command makes a new experiment of the
unfinished trials, and gives ASHA all earlier measurements.
"""

import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {  # read by tune when it is imported
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials' own folders hold the same results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command at once: trials have their checkpoints
    "RAY_AIR_NEW_OUTPUT": "0",
}

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as TunedTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from cluster.bootstrap.cpus import usable_cpus
from cluster.bootstrap.learner_places import run_watched, start_places
from cluster.bootstrap.nodes import needs_of, registered, require_nodes
from cluster.bootstrap.ray_environment import cluster_address
from cluster.bootstrap.ray_session import connected
from cluster.config.cluster_config import ClusterConfig
from cluster.config.scan_config import Scan, ScanConfig
from cluster.planning.placement import Role
from cluster.run_errors import RunFailed
from cluster.runs.display import Display
from cluster.tuning.run_trial import run_trial
from cluster.tuning.time_left import ScanClock
from cluster.tuning.trial_capacity import at_once
from cluster.tuning.trials import Loop, Trial

_EARLIER = "before "
"""Begins the identifiers of earlier trials: Tune gives none like it."""


def tune_trials(loop: Loop, scan: Scan, trials: Sequence[Trial], waiting: Sequence[Trial]) -> dict[str, str]:
    """Run `waiting`, as many at a time as have room; returns the last line of each failure, by trial.

    Raises RunFailed on a Ray that has no room for a single trial.
    """
    inline = scan.cluster.kind == "inline"
    needs = needs_of(scan)
    one = math.ceil(scan.scan.cpus if inline else needs.cpus)
    with Display() as display:
        display("starting Ray", 0, 1, "")
        with connected(needs, max(usable_cpus(), one)) as joined:
            display("starting Ray", 1, 1, "")
            if not inline:
                require_nodes(needs, joined, display.say)
            roles = [Role("trial", 1, scan.scan.cpus, 0.0)] if inline else needs.roles
            return tune_in_session(loop, scan.scan, scan.cluster, roles, scan.run_dir, trials, waiting, display)


def tune_in_session(
    loop: Loop, scan: ScanConfig, cluster: ClusterConfig, roles: Sequence[Role], run_dir: str,
    trials: Sequence[Trial], waiting: Sequence[Trial], display: Display,
) -> dict[str, str]:  # fmt: skip
    """Run `waiting` as `tune_trials` does, on the Ray that this process is connected to.

    `roles`: the processes of one trial, its rollout pool at its largest; its driver takes no room.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    nodes = registered()
    together = at_once(roles, nodes)
    if scan.at_once is not None:
        together = min(together, scan.at_once)
    inline = cluster.kind == "inline"
    if inline:
        most = max(node.cpus for node in nodes)
        if most < scan.cpus:
            raise RunFailed(
                f"scan.cpus={scan.cpus:g}: no node has more than {most:g} CPUs. Fix: write scan.cpus={most:g}."
            )
        by_name = {trial.name: trial for trial in waiting}
        resources = PlacementGroupFactory([{"CPU": scan.cpus}])
    else:
        loop = partial(run_watched, loop=loop, places=start_places())
        # The trial's driver is no driver of a job, and does not see RAY_ADDRESS.
        address = cluster_address(cluster)
        by_name = {
            trial.name: replace(
                trial, config=replace(trial.config, cluster=replace(trial.config.cluster, address=address))
            )
            for trial in waiting
        }
        # A trial's driver runs on this driver's node, which stays up, and takes no CPU.
        this_node = ray.get_runtime_context().get_node_id()
        (host,) = (node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == this_node)
        resources = PlacementGroupFactory(
            [{f"node:{host}": 0.001}],  # every node has 1; Ray reserves nothing for an empty bundle
            bundle_label_selector=[{"ray.io/node-id": this_node}],
        )
    display.say(f"{min(together, len(waiting))} of {len(waiting)} trials at once")
    watcher = Watcher(by_name, display, together)
    tuner = Tuner(
        tune.with_resources(tune.with_parameters(_run, loop=loop, trials=by_name, scan=scan), resources),
        param_space={"trial": tune.grid_search(list(by_name))},
        tune_config=TuneConfig(
            scheduler=make_scheduler(scan, trials),
            # A trial of one process declares all that it takes, so nodes that come later hold more of them.
            max_concurrent_trials=scan.at_once if inline else together,
            # Starting a process that imports torch takes seconds; a driver ends with its whole run.
            reuse_actors=inline,
            trial_name_creator=attrgetter("trial_id"),
            trial_dirname_creator=attrgetter("trial_id"),
        ),
        run_config=RunConfig(
            name=f"longtake-{uuid.uuid4().hex[:12]}",
            storage_path=str(Path(run_dir, "ray")),
            failure_config=FailureConfig(max_failures=scan.retries),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    tuner.fit()
    return watcher.failures


def make_scheduler(scan: ScanConfig, trials: Sequence[Trial]) -> TrialScheduler:
    """Make ASHA on drift, with the measurements of earlier commands."""
    if scan.keep == 1:
        return FIFOScheduler()
    steps = max(trial.config.dmd.steps for trial in trials)
    scheduler = _Asha(
        time_attr="step", metric="drift", mode="min", max_t=max(steps + 1, scan.first_rung),
        grace_period=scan.first_rung, reduction_factor=1 / scan.keep, stop_last_trials=False,
    )  # fmt: skip
    earlier = {trial.name: SimpleNamespace(trial_id=_EARLIER + trial.name, config={}) for trial in trials}
    for trial in trials:
        scheduler.on_trial_add(None, earlier[trial.name])
    measurements = [(measured, trial.name) for trial in trials for measured in trial.folder.measurements]
    for measured, name in sorted(measurements, key=lambda pair: pair[0]["time"]):
        scheduler.on_trial_result(None, earlier[name], measured)
    return scheduler


class _Asha(ASHAScheduler):
    """Judges a trial once at each rung, over all commands of the scan."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        before = _EARLIER + trial.config.get("trial", "")
        for _, recorded in self._trial_info[trial.trial_id]._rungs:  # Ray has no public way to continue a scan
            if before in recorded:
                recorded[trial.trial_id] = recorded.pop(before)


class Watcher(Callback):
    """Shows the progress of the scan, and records which trials ASHA has stopped; lives in the driver."""

    def __init__(self, waiting: Mapping[str, Trial], display: Display, together: int):
        self.waiting, self.display = waiting, display
        self.failures: dict[str, str] = {}
        self.steps = {name: 0 for name in waiting}
        for name, trial in waiting.items():
            if measured := trial.folder.measurements:
                self.steps[name] = int(measured[-1]["step"])
        self.all_steps = sum(trial.config.dmd.steps for trial in waiting.values())
        left = {name: trial.config.dmd.steps - self.steps[name] for name, trial in waiting.items()}
        self.clock = ScanClock(left, together)
        self._show("")

    def on_trial_start(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        self.clock.begins(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "drift" in result:
            name = trial.config["trial"]
            self.steps[name] = int(result["step"])
            # The last measurement comes with the scores, just before the end.
            if left := self.waiting[name].config.dmd.steps - self.steps[name]:
                self.clock.measured(name, left)
            self._show(f"{name}: drift {result['drift']:.2f} after {result['step']:.0f} updates")

    def on_trial_complete(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        name, folder = trial.config["trial"], self.waiting[trial.config["trial"]].folder
        self.clock.ends(name, judged=folder.state == "finished")
        if folder.state == "unfinished":
            folder.stop(folder.measurements[-1])
            self.all_steps -= self.waiting[name].config.dmd.steps - self.steps[name]
            self.display.say(f"{name}: stopped by ASHA after {self.steps[name]} updates")
        else:
            self.steps[name] = self.waiting[name].config.dmd.steps
        self._show("")

    def on_trial_recover(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        """Report a lost trial, which Tune starts again."""
        reason = Path(trial.error_file).read_text().strip().splitlines()[-1]
        self.display.say(f"{trial.config['trial']}: {reason}; it is started again")

    def on_trial_error(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        """Note the failure of a trial that Tune gives up."""
        name = trial.config["trial"]
        self.failures[name] = Path(trial.error_file).read_text().strip().splitlines()[-1]
        self.clock.ends(name, judged=False)
        self.display.say(f"{name}: {self.failures[name]}")

    def _show(self, line: str) -> None:
        states = [trial.folder.state for trial in self.waiting.values()]
        ended = len(states) - states.count("unfinished")
        line = f"{ended}/{len(states)} trials ended" + (f"; {line}" if line else "")
        self.display("scan", sum(self.steps.values()), self.all_steps, line, self.clock.left_s())


def _run(parameters: dict[str, str], loop: Loop, trials: Mapping[str, Trial], scan: ScanConfig) -> None:
    """Run one trial in its process."""
    run_trial(loop, trials[parameters["trial"]], scan, tune.report)
