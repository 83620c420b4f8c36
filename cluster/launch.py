"""Check a run, and run its loop in one process or on Ray."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from actors.generation.free_memory import free_memory
from cluster.bootstrap.machine_needs import check_this_machine, machine_needs
from cluster.bootstrap.ray_environment import (
    check_temporary_folder,
    cluster_address,
    settle_allocator,
    settle_environment,
)
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.evaluations.best_student import check_metric
from cluster.inline import InlineCluster
from cluster.planning import placement
from cluster.planning.memory_check import check_machine, check_memory
from cluster.planning.run_shape import fixed_shape
from cluster.runs.cluster_interface import Cluster
from cluster.runs.display import Display
from cluster.runs.factory import make_scorer
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from cluster.runs.saved_windows import SavedCluster, check_new_windows, find_windows, save_windows
from cluster.runs.stage_spec import inputs_of, stage_spec
from cluster.runs.start_checks import check_source, check_stage_folders, check_start_of_grpo, check_world
from cluster.runs.wandb_log import check_login
from learner.stage_config import Source
from models.errors import ConfigError
from models.wan.network import Wan
from models.worlds.tiny_world import FPS
from models.worlds.video_codec import video_frames
from models.worlds.world_config import SHIPPED_STUDENT

_ASSETS = SHIPPED_STUDENT.parent
"""Folder of the weights that a run takes where none are given."""


def launch(loop: Callable, config: Config) -> Config:
    """Run `loop(config, cluster, log)` in this process or on Ray; returns the configuration of the run.

    That is another one where debug asks for one half of a run: it works in a folder of its own inside run_dir, which is
    cleared first, because it must not change the run's results. Raises StopsRun when the run stops itself.
    """
    folder = RunFolder(config.run_dir)
    if config.debug.half is None and all(folder.stage(stage).finished for stage in config.stages):
        return config
    with folder.locked():
        if config.debug.half is not None:
            apart = Path(config.run_dir, config.debug.half)
            loop = save_windows if config.debug.rollout_only else loop
            config = replace(
                config, run_dir=str(apart), init=str(config.init_path), teacher=str(config.teacher_path),
                debug=replace(config.debug, windows=str(config.saved_windows_path)),
            )  # fmt: skip
            if apart.exists():
                shutil.rmtree(apart)
            RunFolder(apart).claim(config)
        if config.cluster.kind == "ray":
            settle_environment(config.cluster)
            from cluster.ray_launch import launch_on_ray  # only now: ray reads its environment when imported

            launch_on_ray(loop, config)
            return config
        torch.set_num_threads(config.cluster.threads)
        settle_allocator()
        cluster: Cluster = InlineCluster(config.run_dir)
        if config.debug.learner_only:
            cluster = SavedCluster(config.saved_windows_path, config.window.frames, config.student.frame_shape)
        with (
            Display() as display,
            closing(RunLog(config.run_dir, config.wandb, cluster, display, config.tensorboard)) as log,
        ):
            loop(config, cluster, log)
    return config


def reach(cluster: ClusterConfig) -> None:
    """Check that the cluster's head answers and accepts us, or that a Ray of our own has a folder.

    Raises CannotStart, ConfigError.
    """
    address = cluster_address(cluster)
    if address is None:
        check_temporary_folder()
        return
    settle_environment(cluster)
    from cluster.bootstrap.ray_head import require_head

    require_head(address)


def preflight(config: Config) -> None:
    """Check keys, files and devices before anything starts, then claim the run folder. Raises ValueError."""
    for check in _checks(config):
        check()
    RunFolder(config.run_dir).claim(config)


def rehearse(config: Config) -> list[str]:
    """Run the checks of a start without one; returns a line for each that would fail for want of a file or a login.

    Raises ConfigError for a file that is here and does not fit.
    """
    lines = []
    for check in _checks(config):
        try:
            check()
        except ConfigError as error:
            path = Path(str(error.value))
            if isinstance(error.value, Path) and not path.is_absolute():  # paths of users are absolute
                name = path.as_posix().replace("hf:/", "hf://")
                print(f"note: {error.key}={name}: a repository of the hub, read when the run starts", file=sys.stderr)
                continue
            if error.value is not None and path.is_absolute() and path.exists() and _ASSETS not in path.parents:
                raise
            lines.append(str(error))
    return lines


def _checks(config: Config) -> Iterator[Callable[[], object]]:
    """List the checks of a start; each raises ValueError."""
    stages, folder, inputs = config.stages, RunFolder(config.run_dir), inputs_of(config)
    held_out = config.sentinel.prompts if "grpo" in stages else 0
    yield partial(inputs.prompts.check, held_out, not config.in_wan_world)
    yield partial(placement.check, config)
    yield partial(_check_room, config)
    yield partial(check_login, config.wandb)
    with torch.device("meta"):
        student, teacher = Wan(config.student.wan), Wan(config.teacher_wan)
    if "teacher" not in stages:
        yield partial(check_source, config.teacher_source, teacher)
    for key, given in (("base", config.base), ("init", config.init)):
        if given is not None:
            yield partial(check_source, Source(Path(given), key), student)
    yield partial(check_stage_folders, folder, stages, config.init, student, teacher)
    judges = {"reward.terms": config.reward.weights, "sentinel.metrics": config.sentinel.metrics}
    judges = judges if "grpo" in stages else {}
    yield partial(check_world, stages, config.student, config.prompts, config.window.frames, judges, inputs.world)
    if config.evaluated_stages:
        yield lambda: check_metric(
            config.evaluation, config.in_wan_world,
            video_frames(inputs.world.codec(torch.device("cpu")), config.evaluation.frames) / FPS,
        )  # fmt: skip
    if "grpo" in stages:
        yield lambda: make_scorer(stage_spec("grpo", config).scorer)  # each reward and sentinel once, with its flow
    if "grpo" in stages and "dmd" not in stages:
        critic = config.grpo_critic_source if config.grpo.dmd_weight else None
        yield partial(check_start_of_grpo, config.grpo_init_source, critic, config.base_source, student)
    if config.debug.learner_only:
        yield partial(find_windows, config.saved_windows_path, config.window.frames, config.student.frame_shape)
    if config.debug.rollout_only:
        yield partial(check_new_windows, config.saved_windows_path)
    if "ode" in stages and not folder.stage("ode").finished:
        new_teacher = "teacher" in stages and not config.teacher_path.exists()
        yield partial(inputs.trajectories.check, new_teacher=new_teacher)
    needs = machine_needs(placement.roles(config), config.learner, config.rollout)
    yield partial(check_this_machine, config.cluster, needs)


def _check_room(config: Config) -> None:
    """Reject a run that the GPUs named by device_name, or the memory of this machine, cannot hold (ConfigError)."""
    cluster = config.cluster
    if config.device_name is not None:
        check_memory(fixed_shape(config))
    elif not (cluster.rank_gpus or cluster.actor_gpus) and cluster_address(cluster) is None:
        check_machine(fixed_shape(config), free_memory())
