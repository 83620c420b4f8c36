"""The trials of a scan on Ray Tune: room is declared, ASHA stops the worse ones, what is lost starts again.

A trial is one process (cluster=inline), or a driver in one that makes a whole run on the same Ray.

Tune keeps the state of an experiment as pickles. They are written and never read: every command makes an experiment of
its own, of the trials that are unfinished, and tells ASHA what all of them have measured before.
"""

import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {  # read by tune when it is imported
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # what they would write stands in the trials' own folders
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command at once: trials have their checkpoints
    "RAY_AIR_NEW_OUTPUT": "0",
}

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as TunedTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from cluster.bootstrap.cpus import usable_cpus
from cluster.bootstrap.learner_places import guarded, start_places
from cluster.bootstrap.nodes import needs_of, registered, require_nodes
from cluster.bootstrap.ray_environment import cluster_address
from cluster.bootstrap.ray_session import connected
from cluster.config.scan_config import Scan, ScanConfig
from cluster.errors import RunFailed
from cluster.runs.display import Display
from cluster.tuning.run_trial import run_trial
from cluster.tuning.time_left import ScanClock
from cluster.tuning.trial_capacity import at_once, trial_roles
from cluster.tuning.trials import Loop, Trial


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
            return tune_in_session(loop, scan, trials, waiting, display)


def tune_in_session(
    loop: Loop, scan: Scan, trials: Sequence[Trial], waiting: Sequence[Trial], display: Display
) -> dict[str, str]:
    """As `tune_trials`, on the Ray that this process is connected to."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    inline = scan.cluster.kind == "inline"
    if inline:
        _check_room(scan.scan)
    else:
        loop = partial(guarded, loop=loop, places=start_places())
    together = _together(scan)
    display.say(f"{min(together, len(waiting))} of {len(waiting)} trials at once")
    by_name = {trial.name: trial if inline else _joining(trial, cluster_address(scan.cluster)) for trial in waiting}
    watcher = Watcher(by_name, display, together)
    trainable = tune.with_parameters(_run, loop=loop, trials=by_name, scan=scan.scan)
    tuner = Tuner(
        tune.with_resources(trainable, PlacementGroupFactory([{"CPU": scan.scan.cpus}]) if inline else _beside_us()),
        param_space={"trial": tune.grid_search(list(by_name))},
        tune_config=TuneConfig(
            scheduler=make_scheduler(scan.scan, trials),
            # What a trial of one process declares is all that it takes, on nodes that come later, too.
            max_concurrent_trials=scan.scan.at_once if inline else together,
            # Starting a process that imports torch takes seconds; what ends with a driver is a whole run.
            reuse_actors=inline,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=RunConfig(
            name=f"longtake-{uuid.uuid4().hex[:12]}",
            storage_path=str(Path(scan.run_dir, "ray")),
            failure_config=FailureConfig(max_failures=scan.scan.retries),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    tuner.fit()
    return watcher.failures


def _together(scan: Scan) -> int:
    """Trials that run at once, on the nodes that are there now."""
    most = at_once(trial_roles(scan), registered())
    return most if scan.scan.at_once is None else min(most, scan.scan.at_once)


def _joining(trial: Trial, address: str | None) -> Trial:
    """Its driver is no driver of ours, and does not know of RAY_ADDRESS: it is told where it is."""
    config = trial.config
    return replace(trial, config=replace(config, cluster=replace(config.cluster, address=address)))


def _beside_us() -> PlacementGroupFactory:
    """The driver of a trial: on the node of this one, which stays, and without a CPU, as every driver."""
    here = ray.get_runtime_context().get_node_id()
    (address,) = (node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here)
    return PlacementGroupFactory(
        [{f"node:{address}": 0.001}],  # every node has 1; Ray reserves nothing where nothing is asked for
        bundle_label_selector=[{"ray.io/node-id": here}],
    )


def make_scheduler(scan: ScanConfig, trials: Sequence[Trial]) -> TrialScheduler:
    """ASHA on drift, which knows what was measured in commands before this one."""
    if scan.keep == 1:
        return FIFOScheduler()
    steps = max(trial.config.dmd.steps for trial in trials)
    scheduler = _Asha(
        time_attr="step", metric="drift", mode="min", max_t=max(steps + 1, scan.first_rung),
        grace_period=scan.first_rung, reduction_factor=1 / scan.keep, stop_last_trials=False,
    )  # fmt: skip
    known = [(measured, trial) for trial in trials for measured in trial.folder.measurements]
    for trial in trials:
        scheduler.on_trial_add(None, _known(trial))
    for measured, trial in sorted(known, key=lambda pair: pair[0]["time"]):
        scheduler.on_trial_result(None, _known(trial), measured)
    return scheduler


class _Asha(ASHAScheduler):
    """Judges a trial once at each rung, in whatever command it came past it."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        before = _name_before(trial.config.get("trial", ""))
        for _, recorded in self._trial_info[trial.trial_id]._rungs:  # Ray has no public way to go on with a scan
            if before in recorded:
                recorded[trial.trial_id] = recorded.pop(before)


def _known(trial: Trial) -> Any:
    """A trial as ASHA sees it: under a name that Tune gives no trial."""
    return SimpleNamespace(trial_id=_name_before(trial.name), config={})


def _name_before(name: str) -> str:
    return f"before {name}"


class Watcher(Callback):
    """In the driver: tells how far the scan is, and notes which trials ASHA has stopped."""

    def __init__(self, waiting: Mapping[str, Trial], display: Display, together: int):
        self.waiting, self.display = waiting, display
        self.failures: dict[str, str] = {}
        self.steps = {name: 0 for name in waiting}
        for name, trial in waiting.items():
            if measured := trial.folder.measurements:
                self.steps[name] = int(measured[-1]["step"])
        self.all_steps = sum(trial.config.dmd.steps for trial in waiting.values())
        self.clock = ScanClock({name: self._left(name) for name in waiting}, together)
        self._show("")

    def on_trial_start(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        self.clock.begins(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "drift" in result:
            name = trial.config["trial"]
            self.steps[name] = int(result["step"])
            if left := self._left(name):  # the last is told when the trial is judged, just before it ends
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
        """Tune tries again by itself."""
        self.display.say(f"{trial.config['trial']}: {_reason(trial)}; it is started again")

    def on_trial_error(self, iteration: int, trials: list[TunedTrial], trial: TunedTrial, **info: Any) -> None:
        """It is given up."""
        name = trial.config["trial"]
        self.failures[name] = _reason(trial)
        self.clock.ends(name, judged=False)
        self.display.say(f"{name}: {self.failures[name]}")

    def _show(self, line: str) -> None:
        states = [trial.folder.state for trial in self.waiting.values()]
        ended = len(states) - states.count("unfinished")
        told = f"{ended}/{len(states)} trials ended" + (f"; {line}" if line else "")
        self.display("scan", sum(self.steps.values()), self.all_steps, told, self.clock.left_s())

    def _left(self, name: str) -> int:
        return self.waiting[name].config.dmd.steps - self.steps[name]


def _run(parameters: dict[str, str], loop: Loop, trials: Mapping[str, Trial], scan: ScanConfig) -> None:
    """In the trial's process."""
    run_trial(loop, trials[parameters["trial"]], scan, tune.report)


def _reason(trial: TunedTrial) -> str:
    """The last line of its last error."""
    return Path(trial.error_file).read_text().strip().splitlines()[-1]


def _name_of(tuned: TunedTrial) -> str:
    return tuned.trial_id


def _check_room(scan: ScanConfig) -> None:
    most = max(node.cpus for node in registered())
    if most < scan.cpus:
        raise RunFailed(f"scan.cpus = {scan.cpus:g}, and no node has more than {most:g} CPUs; lower scan.cpus")
