"""Set and check the environment that Ray reads once, when it is imported or starts."""

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from tempfile import TemporaryFile

from cluster.config.cluster_config import ClusterConfig
from models.errors import ConfigError

ALLOCATOR_NAMES = {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"}
"""Variables that configure torch's allocator of GPU memory."""
_SOCKET = "/ray/session_2026-11-30_07-18-13_821436_4194304/sockets/plasma_store"
"""Longest path of a socket in Ray's temporary folder."""
_SOCKET_BYTES = 107
"""Longest path that Linux takes for a socket."""
_LEAST_BYTES = 2**20
"""Room that a session of Ray takes for its first logs."""


def settle_environment(cluster: ClusterConfig) -> None:
    """Make authentication explicit and turn noise off. Call before the first `import ray` of the process.

    Unset, Ray 2.60 lets a cluster demand tokens (if a token file exists when it starts) that its clients do not send.
    Joining, we send a token exactly when there is one. Our own local Ray gets a token of its own, in memory only: a
    token file would silently change how clusters start that the user makes later.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A busy machine takes longer than Train's minute to start a process that imports torch.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    joining = cluster_address(cluster) is not None
    if not joining:
        # Our own Ray serves this machine only. By default Linux nodes listen on all interfaces, and no address given
        # to ray.init changes that; this is the switch by which Ray keeps a node on the loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody drains the only node
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not joining:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    file = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")))
    has_token = "RAY_AUTH_TOKEN" in os.environ or file.is_file()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def settle_allocator(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's allocator grow its segments, unless the user configures it. Call before a process uses its GPU.

    One rank fills a GPU of 80 GB: fragments would not fit beside it. torch reads the second name where the first is
    not set.
    """
    if not ALLOCATOR_NAMES & environment.keys():
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def check_temporary_folder() -> None:
    """Check that a Ray of this machine can make its sockets and logs. Raises ConfigError with the variable's name."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder, most = os.environ.get(name, "/tmp"), _SOCKET_BYTES - len(_SOCKET)
    length = len(os.fsencode(folder.rstrip("/")))
    cure = "export RAY_TMPDIR=FOLDER, a short path with room such as /tmp"
    if length > most:
        raise ConfigError(name, folder, f"a path of {length} bytes, and Ray's sockets leave {most} for it", cure)
    try:
        place = Path(folder, "ray")
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place) as trial:
            trial.write(bytes(_LEAST_BYTES))
    except OSError as error:
        raise ConfigError(name, folder, f"Ray cannot write there ({error.strerror or error})", cure) from error


def cluster_address(cluster: ClusterConfig) -> str | None:
    """Return the Ray to join, if any. Ray sets RAY_ADDRESS for the entry point of a submitted job."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or None
