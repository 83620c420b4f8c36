"""A run on Ray: one coordinator, a rollout pool, and the learner group by Ray Train."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from cluster.config import Config
from cluster.coordinator import Coordinator
from cluster.display import Display
from cluster.ray_cluster import RayCluster
from cluster.ray_session import ray_session
from cluster.run_log import RunLog
from learner.optimizer import NonFiniteError

_POLL_S = 0.5
_CALL_TIMEOUT_S = 60.0


def launch_on_ray(loop: Callable, config: Config) -> None:
    """Run `loop` in a Ray Train worker, one `fit` for all stages.

    Raises NonFiniteError when the loop did, Train's error with the worker's traceback otherwise.
    """
    with Display() as display:
        display("starting Ray", 0, 1, "")
        with ray_session(config):
            display("starting Ray", 1, 1, "")
            coordinator = Coordinator.remote(config)
            ended = threading.Event()
            watcher = threading.Thread(target=_watch, args=(coordinator, display, ended), daemon=True)
            watcher.start()
            try:
                _fit(loop, config, coordinator)
            finally:
                ended.set()
                watcher.join(timeout=5)
                ray.kill(coordinator)


def _fit(loop: Callable, config: Config, coordinator: ray.actor.ActorHandle) -> None:
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        _learn,
        train_loop_config={"loop": loop, "config": config, "coordinator": coordinator},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        # Train resumes a run of an equal name by itself; we resume from our own checkpoints.
        run_config=RunConfig(name=f"longtake-{uuid.uuid4().hex[:12]}", storage_path=str(Path(config.run_dir, "ray"))),
    )
    try:
        trainer.fit()
    except SystemExit as stop:  # Train's own answer to Ctrl-C
        raise KeyboardInterrupt from stop
    except TrainingFailedError as error:
        reason = ray.get(coordinator.stop_reason.remote(), timeout=_CALL_TIMEOUT_S)
        if reason is None:
            raise
        raise NonFiniteError(reason) from error


def _learn(task: dict[str, Any]) -> None:
    """In the learner's process."""
    config, coordinator = task["config"], task["coordinator"]
    torch.set_num_threads(config.cluster.threads)
    cluster = RayCluster(coordinator, config)
    log = RunLog(config, cluster.show)
    try:
        task["loop"](config, cluster, log)
    except NonFiniteError as error:
        # Train hands an exception on as text only; the coordinator keeps the reason for the driver.
        ray.get(coordinator.stopped.remote(str(error)), timeout=_CALL_TIMEOUT_S)
        raise
    finally:
        log.close()


def _watch(coordinator: ray.actor.ActorHandle, display: Display, ended: threading.Event) -> None:
    """Show the learner's progress until the run has ended."""
    started = time.monotonic()
    display("starting learner", 0, 1, "")
    waiting = True
    while not ended.wait(_POLL_S):
        shown = _shown_last(coordinator)
        if shown is not None:
            if waiting:
                display("starting learner", 1, 1, f"{time.monotonic() - started:.0f} s")
                waiting = False
            display(*shown)
    shown = _shown_last(coordinator)
    if shown is not None:
        display(*shown)


def _shown_last(coordinator: ray.actor.ActorHandle) -> tuple[str, int, int, str] | None:
    try:
        return ray.get(coordinator.shown_last.remote(), timeout=10)
    except RayError:
        return None  # busy starting, or gone: the run's own error says what happened
