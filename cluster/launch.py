"""From a loop and a configuration to a running system."""

from collections.abc import Callable
from pathlib import Path

import torch

from cluster.config import Config
from cluster.display import Display
from cluster.inline import InlineCluster
from cluster.ray_environment import settle_environment
from cluster.run_folder import RunFolder
from cluster.run_log import RunLog
from learner.optimizer import NonFiniteError
from models.files import check_weights


class RunFailed(Exception):
    """The run stopped on its own: one line that says where and why."""


def launch(loop: Callable, config: Config) -> None:
    """Run `loop(config, cluster, log)` where the config says. Raises RunFailed when the run stops itself."""
    try:
        if config.cluster.kind == "inline":
            _launch_inline(loop, config)
        else:
            settle_environment(config)
            from cluster.ray_launch import launch_on_ray  # only now: ray reads its environment when imported

            launch_on_ray(loop, config)
    except NonFiniteError as error:
        raise RunFailed(str(error)) from error


def preflight(config: Config) -> None:
    """Check what a user can get wrong before anything starts, then claim the run folder.

    Raises ValueError: missing or damaged weights and checkpoints, a run folder of another config.
    """
    stages = config.stages
    if stages != ["teacher"] and "teacher" not in stages:
        check_weights(Path(config.teacher), "teacher")
    if config.init is not None:
        check_weights(Path(config.init), "init")
    folder = RunFolder(config)
    if "dmd" in stages and "ode" not in stages and config.init is None and not folder.stage("ode").finished:
        raise ValueError("stage dmd starts from a student: run stage ode before it, or give init=<student.safetensors>")
    for path in folder.path.glob("*/checkpoints"):
        folder.stage(path.parent.name).verify()
    folder.claim()


def _launch_inline(loop: Callable, config: Config) -> None:
    torch.set_num_threads(config.cluster.threads)
    with Display() as display:
        log = RunLog(config, display)
        try:
            loop(config, InlineCluster(config), log)
        finally:
            log.close()
