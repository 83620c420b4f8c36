"""A Ray to run on: the one that is there, or a local one that ends with the command."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.bootstrap.nodes import note_unshared_texts, require_room, require_shared_folder, wait_for_nodes
from cluster.bootstrap.ray_environment import cluster_address
from cluster.bootstrap.upload import upload_of
from cluster.config.run_config import Config
from cluster.errors import CannotStart
from cluster.planning import memory, placement

_STORE_BYTES = 512 * 2**20
_CHECKOUT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def connected(config: Config, own_cpus: float) -> Iterator[bool]:
    """Connected to Ray inside the block, to one of `own_cpus` where none is there to join; whether one was joined.

    Only what was started here is stopped: a trial of a scan lives in a process that is connected, and goes on so.
    Raises CannotStart.
    """
    if ray.is_initialized():
        yield True
        return
    address = cluster_address(config)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None:
        ray.init(
            address="local",
            num_cpus=own_cpus,
            include_dashboard=False,
            object_store_memory=_store_bytes(config),
            **quiet,
        )
    else:
        _join(address, quiet)
    try:
        yield address is not None
    finally:
        ray.shutdown()


@contextmanager
def ray_session(config: Config, say: Callable[[str], None]) -> Iterator[None]:
    """Connected inside the block to a Ray that has room for the run.

    `say` hears what is waited for. Raises CannotStart for what the cluster cannot take.
    """
    with connected(config, own_cpus(config)) as joined:
        require_nodes(config, joined, say)
        yield


def own_cpus(config: Config) -> float:
    """CPUs of a Ray that is started for one run."""
    return sum(role.processes * role.cpus for role in placement.roles(config))


def require_nodes(config: Config, joined: bool, say: Callable[[str], None]) -> None:
    """Return when the Ray that this process is connected to has room for the run. Raises CannotStart."""
    if joined:
        wait_for_nodes(config, say)
        require_shared_folder(config)
        note_unshared_texts(config, say)
    else:
        require_room(config)


def _store_bytes(config: Config) -> int:
    """For what waits and travels, two versions of the weights, and a quarter more."""
    lines = {line.name: line.value for line in memory.shared_memory(config)}
    held = lines["the buffer"] + 2 * lines["one version of the weights"]
    return max(_STORE_BYTES, int(1.25 * held))


def _join(address: str, quiet: dict[str, object]) -> None:
    # A submitted job brings the code along; a driver from outside must send it.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if not submitted and (refused := upload_of(_CHECKOUT).too_large):
        raise CannotStart(refused)
    try:
        ray.init(address=address, runtime_env=None if submitted else {"working_dir": str(_CHECKOUT)}, **quiet)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise CannotStart(
            f"no Ray could be joined at {address} ({' '.join(str(error).split())[:160]}); check cluster.address "
            "and RAY_ADDRESS"
        ) from error
