"""Start a run: the checks before it, and the loop in one process or on Ray."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from cluster.bootstrap.ray_environment import cluster_address, settle_environment
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.inline import InlineCluster
from cluster.planning import placement
from cluster.runs.cluster_interface import Cluster
from cluster.runs.display import Display
from cluster.runs.factory import make_scorer
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from cluster.runs.run_world import check_judges, check_tiny_world, check_wan_world
from cluster.runs.saved_windows import SavedCluster, check_new_folder, find_windows, half_alone
from cluster.runs.stage_spec import inputs_of, stage_spec
from cluster.runs.start_checks import (
    check_source,
    check_stage_folders,
    check_start_of_grpo,
    check_student_of_dmd,
    check_teacher_of_students,
)
from cluster.runs.wandb_log import check_login
from learner.stage_config import Source
from models.wan.network import Wan


def launch(loop: Callable, config: Config) -> Config:
    """Run `loop(config, cluster, log)` in this process or on Ray; returns the configuration of the run.

    That is another one where debug asks for one half of a run. Raises StopsRun when the run stops itself.
    """
    folder = RunFolder(config.run_dir)
    if config.debug.half is None and all(folder.stage(stage).finished for stage in config.stages):
        return config
    with folder.locked():
        if config.debug.half is not None:
            loop, config = half_alone(loop, config)
        if config.cluster.kind == "ray":
            settle_environment(config.cluster)
            from cluster.ray_launch import launch_on_ray  # only now: ray reads its environment when imported

            launch_on_ray(loop, config)
            return config
        torch.set_num_threads(config.cluster.threads)
        cluster: Cluster = InlineCluster(config.run_dir)
        if config.debug.learner_only:
            cluster = SavedCluster(config.saved_windows_path, config.window.frames, config.student.frame_shape)
        with Display() as display, closing(RunLog(config.run_dir, config.wandb, cluster, display)) as log:
            loop(config, cluster, log)
    return config


def reach(cluster: ClusterConfig) -> None:
    """Ask the head of the cluster to join, if any, whether it lets us in. Raises CannotStart."""
    address = cluster_address(cluster)
    if address is not None:
        settle_environment(cluster)
        from cluster.bootstrap.ray_head import require_head

        require_head(address)


def preflight(config: Config) -> None:
    """Check what a user can get wrong before anything starts, then claim the run folder. Raises ValueError."""
    stages, folder = config.stages, RunFolder(config.run_dir)
    inputs = inputs_of(config)
    inputs.prompts.check(config.sentinel.prompts if "grpo" in stages else 0, not config.in_wan_world)
    placement.check(config)
    check_login(config.wandb)
    with torch.device("meta"):
        student, teacher = Wan(config.student.wan), Wan(config.teacher_wan)
    if "teacher" not in stages:
        check_source(config.teacher_source, teacher)
    for key, given in (("base", config.base), ("init", config.init)):
        if given is not None:
            check_source(Source(Path(given), key), student)
    check_stage_folders(folder, student, teacher)
    check_student_of_dmd(folder, stages, config.init)
    check_teacher_of_students(folder, stages)
    if not config.in_wan_world:
        check_tiny_world(config.student)
    else:
        if "grpo" in stages:
            check_judges(config.student.model, config.reward.weights, config.sentinel.metrics)
        check_wan_world(stages, config.student, config.prompts, config.window.frames, inputs.world)
    if "grpo" in stages:
        make_scorer(stage_spec("grpo", config).scorer)  # every reward and sentinel is made once, with its flow
    if "grpo" in stages and "dmd" not in stages:
        critic = config.grpo_critic_source if config.grpo.dmd_weight else None
        check_start_of_grpo(config.grpo_init_source, critic, config.base_source, student)
    if config.debug.learner_only:
        find_windows(config.saved_windows_path, config.window.frames, config.student.frame_shape)
    if config.debug.rollout_only:
        check_new_folder(config.saved_windows_path)
    if "ode" in stages and not folder.stage("ode").finished:
        inputs.trajectories.check(new_teacher="teacher" in stages and not config.teacher_path.exists())
    folder.claim(config)
