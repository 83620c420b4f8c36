"""A Ray to run on: the one that is there, or a local one that ends with the command."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.config import Config
from cluster.errors import RunFailed
from cluster.ray_environment import cluster_address

_STORE_BYTES = 512 * 2**20
_CHECKOUT = Path(__file__).resolve().parent.parent


@contextmanager
def connected(config: Config, own_cpus: int) -> Iterator[None]:
    """Connected to Ray inside the block, to one of `own_cpus` where none is there to join.

    Only what was started here is stopped.
    """
    address = cluster_address(config)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None:
        ray.init(address="local", num_cpus=own_cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    else:
        _join(address, quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connected inside the block to a Ray that has room for the run."""
    address = cluster_address(config)
    scoring = config.cluster.reward_actors if "grpo" in config.stages else 0
    needed = config.cluster.rollout_actors + config.cluster.learner_ranks + scoring
    with connected(config, needed):
        found = int(ray.cluster_resources().get("CPU", 0))
        if found < needed:
            raise RunFailed(
                f"the cluster at {address} has {found} CPUs, but cluster.learner_ranks = {config.cluster.learner_ranks}"
                f" and cluster.rollout_actors = {config.cluster.rollout_actors}"
                + (f" and cluster.reward_actors = {scoring}" if scoring else "")
                + f" need {needed}; add nodes or lower them"
            )
        gpus = (
            config.cluster.rollout_actors * config.cluster.actor_gpus
            + config.cluster.learner_ranks * config.cluster.rank_gpus
            + scoring * config.cluster.reward_gpus
        )
        if (there := ray.cluster_resources().get("GPU", 0)) < gpus:
            raise RunFailed(
                f"the cluster has {there:g} GPUs, but cluster.rank_gpus = {config.cluster.rank_gpus:g}, "
                f"cluster.actor_gpus = {config.cluster.actor_gpus:g} and cluster.reward_gpus = "
                f"{config.cluster.reward_gpus:g} need {gpus:g}; add nodes or lower them"
            )
        yield


def _probe(address: str) -> None:
    """Ray itself tries for minutes; a closed port is known at once."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RunFailed(
            f"nothing answers at cluster.address={address} ({error}); start a cluster or check it"
        ) from error


def _join(address: str, quiet: dict[str, object]) -> None:
    if address.startswith("http"):
        raise RunFailed(f"cluster.address={address} is a dashboard's; give the cluster's, like host:6379")
    _probe(address)
    # A submitted job brings the code along; a driver from outside must send it.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    try:
        ray.init(address=address, runtime_env=None if submitted else {"working_dir": str(_CHECKOUT)}, **quiet)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise RunFailed(
            f"no Ray could be joined at {address} ({' '.join(str(error).split())[:160]}); check cluster.address, "
            "RAY_ADDRESS and RAY_AUTH_MODE"
        ) from error
