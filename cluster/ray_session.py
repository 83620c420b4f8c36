"""A Ray to run on: the one that is there, or a local one that ends with the command."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster import placement
from cluster.config import Config
from cluster.errors import CannotStart
from cluster.nodes import require_room, require_shared_folder, wait_for_nodes
from cluster.ray_environment import cluster_address
from cluster.ray_head import require_head
from cluster.upload import upload_of

_STORE_BYTES = 512 * 2**20
_CHECKOUT = Path(__file__).resolve().parent.parent


@contextmanager
def ray_session(config: Config, say: Callable[[str], None]) -> Iterator[None]:
    """Connected to Ray inside the block, with room for the run. Only what was started here is stopped.

    `say` hears what is waited for. Raises CannotStart for what the cluster cannot take.
    """
    address = cluster_address(config)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None:
        cpus = sum(role.processes * role.cpus for role in placement.roles(config))
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    else:
        _join(address, quiet)
    try:
        if address is None:
            require_room(config)
        else:
            wait_for_nodes(config, say)
            require_shared_folder(config)
        yield
    finally:
        ray.shutdown()


def _join(address: str, quiet: dict[str, object]) -> None:
    require_head(address)
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
