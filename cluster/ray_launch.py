"""Run training on Ray: one coordinator, a rollout pool, and learner ranks by Ray Train."""

import logging
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bootstrap.learner_group import LearnerTrainer, NodeAddressConfig
from cluster.bootstrap.nodes import needs_of
from cluster.bootstrap.process_group import check_own_gpu
from cluster.bootstrap.ray_session import ray_session
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.planning import placement
from cluster.planning.memory_check import check_rank, out_of_memory
from cluster.planning.run_shape import RunShape, fixed_shape
from cluster.pool.coordinator import Coordinator
from cluster.pool.driver_messages import forward_warnings
from cluster.pool.learner_progress import StatusLines
from cluster.ray_cluster import RayCluster
from cluster.run_errors import RunFailed, StageEnded
from cluster.runs.cluster_interface import Cluster
from cluster.runs.display import Display
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog, log_nothing
from cluster.runs.saved_windows import SavedCluster
from learner.parallel import collectives
from models.errors import ConfigError, StopsRun
from models.wan.device_faults import gpu_fault, kernel_fault

_POLL_S = 0.5
_MANY = 100_000
"""Open calls of the coordinator: two for every actor, and they only wait."""
_CALL_TIMEOUT_S = 60.0
_LOST = (RayActorError, StageEnded, GetTimeoutError, ObjectLostError)
"""Errors of a lost coordinator or object; a coordinator that Ray has restarted raises StageEnded."""


def launch_on_ray(loop: Callable, config: Config) -> None:
    """Run `loop` in the ranks of one Ray Train run, one `fit` for all stages.

    Lost ranks and a lost coordinator are restarted `cluster.restarts` times, and the loop resumes from its last
    checkpoint. Raises RunFailed when the run stops itself, Train's error with the worker's traceback otherwise.
    """
    with Display() as display:
        display("starting Ray", 0, 1, "")
        with ray_session(needs_of(config), display.say):
            display("starting Ray", 1, 1, "")
            parts = config.cluster, config.autoscale, config.run_dir
            coordinator = start_coordinator(*parts, config.debug.learner_only, fixed_shape(config))
            ended = threading.Event()
            watcher = threading.Thread(
                target=_watch, args=(coordinator, display, config.stages[-1], ended), daemon=True
            )
            watcher.start()
            try:
                task = {"loop": loop, "config": config, "coordinator": coordinator}
                _fit(task, config.cluster, placement.learner(config.cluster), config.run_dir)
            finally:
                ended.set()
                watcher.join(timeout=15)
                ray.kill(coordinator)


def start_coordinator(
    cluster: ClusterConfig, autoscale: AutoscaleConfig, run_dir: str, learner_only: bool = False,
    work: RunShape | None = None,
) -> ray.actor.ActorHandle:  # fmt: skip
    """Start the run's coordinator, and with it the rollout pool, whose GPUs are compared with the bytes of `work`."""
    # The driver's node is on-demand, and its end is the run's end anyway. Not soft: Ray could then choose a node that
    # may be preempted.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "scheduling_strategy": this_node,
        "num_cpus": 0,
        "max_restarts": cluster.restarts,
        "max_concurrency": _MANY,
    }
    pool = SimpleNamespace(slots=[]) if learner_only else None  # the learner runs alone, on saved windows
    return ray.remote(Coordinator).options(**options).remote(cluster, autoscale, run_dir, pool, work=work)


def _fit(task: dict[str, Any], cluster: ClusterConfig, ranks: placement.Role, run_dir: str) -> None:
    """Run `_learn(task)` in the ranks of one Ray Train run. Raises the reason for which the run stopped itself."""
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = LearnerTrainer(
        partial(_learn, task),  # not by train_loop_config, which Train's controller would open, and import torch for
        backend_config=NodeAddressConfig(
            backend="nccl" if cluster.rank_gpus else "gloo", timeout_s=int(cluster.timeout_s + _CALL_TIMEOUT_S)
        ),
        scaling_config=ScalingConfig(
            num_workers=ranks.processes,
            use_gpu=ranks.gpus > 0,
            resources_per_worker={"CPU": ranks.cpus} | ({"GPU": ranks.gpus} if ranks.gpus else {}),
            label_selector=dict(ranks.labels) or None,
        ),
        # Train resumes a run of an equal name by itself; we resume from our own checkpoints.
        run_config=RunConfig(
            name=f"longtake-{uuid.uuid4().hex[:12]}",
            storage_path=str(Path(run_dir, "ray")),
            failure_config=FailureConfig(max_failures=cluster.restarts),
        ),
    )
    failure = None
    try:
        trainer.fit()
    except SystemExit as stop:  # Train's own answer to Ctrl-C
        raise KeyboardInterrupt from stop
    except TrainingFailedError as error:
        failure = error
    reason = ray.get(task["coordinator"].stop_reason.remote(), timeout=_CALL_TIMEOUT_S) or failure
    if isinstance(reason, WorkerGroupError):
        reason = failed_gpu(reason.worker_failures, cluster.restarts) or reason
    if reason is not None:
        raise reason


def failed_gpu(failures: Mapping[int, Exception], restarts: int) -> RunFailed | None:
    """Return one line for a GPU that failed under a learner rank, out of the ranks' last exceptions; else None."""
    faults = {rank: fault for rank, error in failures.items() if (fault := gpu_fault(error)) is not None}
    if not faults:
        return None
    rank = min(faults)
    return RunFailed(
        f"learner rank {rank}: its GPU failed ({faults[rank]}), and cluster.restarts={restarts} is used up. Fix: take "
        "the GPU or its node out of the cluster; the same command continues from the last checkpoint."
    )


def _learn(task: dict[str, Any]) -> None:
    """Run the loop in a learner rank.

    Train starts the group again for any exception. So an exception that may come from the death of a peer, of the
    coordinator or of an object is raised; a reason for which the run stops itself goes to the driver by way of the
    coordinator, and the next group returns at once.
    """
    loop, config, coordinator = task["loop"], task["config"], task["coordinator"]
    torch.set_num_threads(config.cluster.threads)
    collectives.split_sequences(config.cluster.sequence_ranks)
    if ray.get(coordinator.stop_reason.remote(), timeout=_CALL_TIMEOUT_S) is not None:
        return
    forward_warnings(coordinator, "learner")
    on_ray = RayCluster(coordinator, config.learner.compile)
    cluster: Cluster = on_ray
    if config.debug.learner_only:
        cluster = SavedCluster(config.saved_windows_path, config.window.frames, config.student.frame_shape)
    try:
        check_own_gpu()
        if config.cluster.rank_gpus:  # before weights are read
            check_rank(fixed_shape(config), torch.cuda.get_device_properties(config.device).total_memory)
        if collectives.rank() > 0:
            loop(config, cluster, log_nothing)
            return
        with (
            RunFolder(config.run_dir).written_alone(),
            closing(RunLog(config.run_dir, config.wandb, cluster, on_ray.show, config.tensorboard)) as log,
        ):
            loop(config, cluster, log)
            on_ray.settle()
    except (StopsRun, ConfigError) as stop:
        reason = stop.cause if isinstance(stop, RayTaskError) else stop
        ray.get(coordinator.stopped.remote(RunFailed(str(reason))), timeout=_CALL_TIMEOUT_S)
        if collectives.size() > 1:
            raise  # the others may wait for this rank: Train ends them, and the next group returns at once
    except torch.OutOfMemoryError as error:  # another start would repeat it
        reason = out_of_memory(fixed_shape(config), collectives.rank(), error)
        ray.get(coordinator.stopped.remote(reason), timeout=_CALL_TIMEOUT_S)
        if collectives.size() > 1:
            raise
    except Exception as error:
        fault, unknown = gpu_fault(error), kernel_fault(error)
        if fault is not None:
            coordinator.tell.remote(f"learner rank {collectives.rank()}: its GPU failed ({fault}); starting again")
        if unknown is None and (collectives.size() > 1 or isinstance(error, _LOST) or fault is not None):
            raise
        why = RuntimeError(traceback.format_exc()) if unknown is None else RunFailed(f"learner: {unknown}")
        ray.get(coordinator.stopped.remote(why), timeout=_CALL_TIMEOUT_S)
        if collectives.size() > 1:
            raise


def _watch(coordinator: ray.actor.ActorHandle, display: Display, last_stage: str, ended: threading.Event) -> None:
    """Show the learner's progress and the pool's messages until the run has ended."""
    lines = StatusLines(display, last_stage)
    answered = over = False
    while not over:
        over = ended.wait(_POLL_S)
        try:
            shown, news, state = ray.get(coordinator.look.remote(), timeout=10)
            answered = True
        except RayError as error:
            starting = not answered and isinstance(error, GetTimeoutError)
            state = "is starting" if starting else f"does not answer ({type(error).__name__})"
            shown, news, state = None, [], f"the coordinator {state}"
        for line in news:
            display.say(line)
        lines.observe(shown, None if over else state)
