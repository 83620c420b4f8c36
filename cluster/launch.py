"""From a loop and a configuration to a running system."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cluster.bootstrap.ray_environment import cluster_address, settle_environment
from cluster.config.run_config import Config
from cluster.inline import InlineCluster
from cluster.planning import placement
from cluster.runs.display import Display
from cluster.runs.factory import make_scorer
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from cluster.runs.run_world import check_world
from cluster.runs.saved_windows import SavedCluster, alone
from cluster.runs.saved_windows import check as check_saved_windows
from cluster.runs.trajectories import check_pairs
from cluster.runs.wandb_log import check_login
from models.checkpoints.weight_files import check_weights, verify_weights
from models.wan.network import Wan


def launch(loop: Callable, config: Config) -> Config:
    """Run `loop(config, cluster, log)` where the config says; returns the config that was run.

    It differs where debug asks for one half of the run. Raises StopsRun when the run stops itself.
    """
    folder = RunFolder(config.run_dir)
    if config.debug.half is None and all(folder.stage(stage).finished for stage in config.stages):
        return config
    with folder.locked():
        if config.debug.half is not None:
            loop, config = alone(loop, config)
        if config.cluster.kind == "inline":
            _launch_inline(loop, config)
        else:
            settle_environment(config)
            from cluster.ray_launch import launch_on_ray  # only now: ray reads its environment when imported

            launch_on_ray(loop, config)
    return config


def reach(config: Config) -> None:
    """Return when there is no cluster to join, or its head is there and lets us in: before a folder is claimed for it.

    Raises CannotStart.
    """
    address = cluster_address(config)
    if address is not None:
        settle_environment(config)
        from cluster.bootstrap.ray_head import require_head

        require_head(address)


def preflight(config: Config) -> None:
    """Check what a user can get wrong before anything starts, then claim the run folder.

    Raises ValueError: more than the cluster can ever have, what the run's world cannot honour, missing, damaged or
    foreign weights and checkpoints, a run folder of another config, wandb without a login, saved windows that are
    missing or in the way, trajectories of another teacher.
    """
    placement.check(config)
    check_login(config.wandb)
    folder, stages = RunFolder(config.run_dir), config.stages
    with torch.device("meta"):
        student, real = Wan(config.student.wan), Wan(config.teacher_wan)
    if "teacher" not in stages:
        check_weights(config.teacher_path, "teacher", real)
        verify_weights(config.teacher_path, "teacher")
    for key in ("base", "init"):
        if getattr(config, key) is not None:
            check_weights(Path(getattr(config, key)), key, student)
            verify_weights(Path(getattr(config, key)), key)
    for path in sorted(folder.path.glob("*/")):
        stage = folder.stage(path.name)
        stage.verify()
        if stage.finished:
            check_weights(stage.result, "run_dir", real if path.name == "teacher" else student)
    if "dmd" in stages and "ode" not in stages and config.init is None and not folder.stage("ode").finished:
        raise ValueError("stage dmd starts from a student: run stage ode before it, or give init=<student.safetensors>")
    others = [name for name in ("ode", "dmd", "grpo") if (folder.path / name).exists()]
    if "teacher" in stages and others and not folder.stage("teacher").finished:
        raise ValueError(
            f"run_dir={folder.path} already has {' and '.join(others)} of another teacher; leave stage teacher out, or "
            "give a new run_dir"
        )
    check_world(config)
    if "grpo" in stages:
        make_scorer(config)  # every reward and sentinel is made once, with its flow
    if "grpo" in stages and "dmd" not in stages:
        for source in [config.grpo_init_source] + [config.grpo_critic_source] * (config.grpo.dmd_weight > 0):
            check_weights(source.path, source.key, student, source.part)
            verify_weights(source.path, source.key)
        if config.grpo.dmd_weight and config.grpo_critic_source == config.base_source:
            print(
                f"note: no critic lies beside {config.grpo_init_path}; that of stage grpo starts from "
                f"{config.base_source.path} and does not know the student yet (grpo.critic names one)",
                file=sys.stderr,
            )
    check_saved_windows(config)
    check_pairs(config)
    folder.claim(config)


def _launch_inline(loop: Callable, config: Config) -> None:
    torch.set_num_threads(config.cluster.threads)
    with Display() as display:
        cluster = SavedCluster(config) if config.debug.learner_only else InlineCluster(config)
        log = RunLog(config.run_dir, config.wandb, cluster, display)
        try:
            loop(config, cluster, log)
        finally:
            log.close()
