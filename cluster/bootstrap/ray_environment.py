"""Set the environment variables that Ray reads once, when it is imported."""

import os
import secrets
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig


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
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not joining:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    has_token = "RAY_AUTH_TOKEN" in os.environ or file.is_file()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def cluster_address(cluster: ClusterConfig) -> str | None:
    """Return the Ray to join, if any. Ray sets RAY_ADDRESS for the entry point of a submitted job."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or None
