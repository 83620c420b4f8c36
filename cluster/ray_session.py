"""A Ray to run on: the one that is there, or a local one that ends with the command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.config import Config
from cluster.ray_environment import cluster_address

_STORE_BYTES = 512 * 2**20
_CHECKOUT = Path(__file__).resolve().parent.parent


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connected to Ray inside the block. Only what was started here is stopped."""
    address = cluster_address(config)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is not None:
        # A submitted job brings the code along; a driver from outside must send it.
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        ray.init(address=address, runtime_env=None if submitted else {"working_dir": str(_CHECKOUT)}, **quiet)
    else:
        needed = config.cluster.rollout_actors + 1
        ray.init(
            address="local",
            num_cpus=needed,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
