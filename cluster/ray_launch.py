"""A run on Ray: one coordinator, a rollout pool, and the learner group by Ray Train."""

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bootstrap.nodes import needs_of
from cluster.bootstrap.process_group import NodeAddressConfig
from cluster.bootstrap.ray_session import ray_session
from cluster.config.run_config import Config
from cluster.errors import RunFailed, StageEnded
from cluster.planning import placement
from cluster.pool.coordinator import Coordinator
from cluster.pool.driver_messages import forward_warnings
from cluster.ray_cluster import RayCluster
from cluster.runs.cluster_interface import Cluster
from cluster.runs.display import Display
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import Progress, RunLog, log_nothing
from cluster.runs.saved_windows import NoPool, SavedCluster
from learner.parallel import collectives
from models.errors import StopsRun

_POLL_S = 0.5
_MANY = 100_000
"""Calls that the coordinator keeps open: two for every actor, and they only wait."""
_CALL_TIMEOUT_S = 60.0
_LOST = (RayActorError, StageEnded, GetTimeoutError, ObjectLostError)
"""The coordinator, or something of its, is gone; StageEnded is what one says that Ray has started again."""
_SILENCE_S = 10.0
"""Without progress for so long, the display says what everybody is doing."""


def launch_on_ray(loop: Callable, config: Config) -> None:
    """Run `loop` in the ranks of one Ray Train run, one `fit` for all stages.

    Lost ranks and a lost coordinator are started again, `cluster.restarts` times, and the loop goes on from its last
    checkpoint. Raises RunFailed when the run stops itself, Train's error with the worker's traceback otherwise.
    """
    with Display() as display:
        display("starting Ray", 0, 1, "")
        with ray_session(needs_of(config), display.say):
            display("starting Ray", 1, 1, "")
            coordinator = start_coordinator(config)
            ended = threading.Event()
            watcher = threading.Thread(target=_watch, args=(coordinator, display, ended), daemon=True)
            watcher.start()
            try:
                _fit(loop, config, coordinator)
            finally:
                ended.set()
                watcher.join(timeout=15)
                ray.kill(coordinator)


def start_coordinator(config: Config) -> ray.actor.ActorHandle:
    """The run's coordinator, and with it the rollout pool."""
    # Beside the driver: that node is on-demand, and its end is the run's end anyway. Not soft: Ray would then put it on
    # any node, one that may be preempted included.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "scheduling_strategy": here,
        "num_cpus": 0,
        "max_restarts": config.cluster.restarts,
        "max_concurrency": _MANY,
    }
    pool = NoPool() if config.debug.learner_only else None
    return ray.remote(Coordinator).options(**options).remote(config, pool)


def _fit(loop: Callable, config: Config, coordinator: ray.actor.ActorHandle) -> None:
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    cluster, ranks_of = config.cluster, placement.learner(config)
    trainer = TorchTrainer(
        _learn,
        train_loop_config={"loop": loop, "config": config, "coordinator": coordinator},
        torch_config=NodeAddressConfig(
            backend="nccl" if cluster.rank_gpus else "gloo", timeout_s=int(cluster.timeout_s + _CALL_TIMEOUT_S)
        ),
        scaling_config=ScalingConfig(
            num_workers=ranks_of.processes,
            use_gpu=ranks_of.gpus > 0,
            resources_per_worker={"CPU": ranks_of.cpus} | ({"GPU": ranks_of.gpus} if ranks_of.gpus else {}),
            label_selector=dict(ranks_of.labels) or None,
        ),
        # Train resumes a run of an equal name by itself; we resume from our own checkpoints.
        run_config=RunConfig(
            name=f"longtake-{uuid.uuid4().hex[:12]}",
            storage_path=str(Path(config.run_dir, "ray")),
            failure_config=FailureConfig(max_failures=cluster.restarts),
        ),
    )
    try:
        trainer.fit()
    except SystemExit as stop:  # Train's own answer to Ctrl-C
        raise KeyboardInterrupt from stop
    except TrainingFailedError:
        _raise_reason(coordinator)
        raise
    _raise_reason(coordinator)


def _raise_reason(coordinator: ray.actor.ActorHandle) -> None:
    """What the run stopped itself for, if it did."""
    reason = ray.get(coordinator.stop_reason.remote(), timeout=_CALL_TIMEOUT_S)
    if reason is not None:
        raise reason


def _learn(task: dict[str, Any]) -> None:
    """In a learner rank.

    Train starts the group again for any exception. So what may be the death of a peer, of the coordinator or of an
    object is raised; what the run stops itself for is told to the driver, and a group that finds it told returns.
    """
    config, coordinator = task["config"], task["coordinator"]
    torch.set_num_threads(config.cluster.threads)
    if ray.get(coordinator.stop_reason.remote(), timeout=_CALL_TIMEOUT_S) is not None:
        return
    forward_warnings(coordinator, "learner")
    on_ray = RayCluster(coordinator, config)
    cluster: Cluster = on_ray
    if config.debug.learner_only:
        cluster = SavedCluster(config.saved_windows_path, config.window.frames, config.student.frame_shape)
    try:
        _run_rank(task["loop"], config, cluster, on_ray.show)
    except StopsRun as stop:
        reason = stop.cause if isinstance(stop, RayTaskError) else stop
        ray.get(coordinator.stopped.remote(RunFailed(str(reason))), timeout=_CALL_TIMEOUT_S)
        if collectives.size() > 1:
            raise  # the others may wait for this rank: Train ends them, and the next group returns at once
    except Exception as error:
        if collectives.size() > 1 or isinstance(error, _LOST):
            raise
        ray.get(coordinator.stopped.remote(RuntimeError(traceback.format_exc())), timeout=_CALL_TIMEOUT_S)


def _run_rank(loop: Callable, config: Config, cluster: Cluster, show: Progress) -> None:
    if collectives.rank() > 0:
        loop(config, cluster, log_nothing)
        return
    with RunFolder(config.run_dir).written_alone():
        log = RunLog(config.run_dir, config.wandb, cluster, show)
        try:
            loop(config, cluster, log)
        finally:
            log.close()


def _watch(coordinator: ray.actor.ActorHandle, display: Display, ended: threading.Event) -> None:
    """Show the learner's progress, and what happens to the pool, until the run has ended."""
    started = progressed = time.monotonic()
    display("starting learner", 0, 1, "")
    before = None
    while not ended.wait(_POLL_S):
        shown, news, state = _look(coordinator)
        for line in news:
            display.say(line)
        if shown is not None and shown != before:
            if before is None:
                display("starting learner", 1, 1, f"{time.monotonic() - started:.0f} s")
            display(*shown)
            before, progressed = shown, time.monotonic()
        if time.monotonic() - progressed > _SILENCE_S:
            ending = before is not None and before[1] == before[2]
            display.say("finishing" if ending else f"no update for {time.monotonic() - progressed:.0f} s: {state}")
            progressed = time.monotonic()
    shown, news, _ = _look(coordinator)
    for line in news:
        display.say(line)
    if shown is not None:
        display(*shown)


def _look(coordinator: ray.actor.ActorHandle) -> tuple[tuple[str, int, int, str] | None, list[str], str]:
    try:
        return ray.get(coordinator.look.remote(), timeout=10)
    except RayError as error:
        return None, [], f"the coordinator does not answer ({type(error).__name__})"
