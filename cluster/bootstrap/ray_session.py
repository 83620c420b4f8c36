"""Connect to a Ray: a cluster that is joined, or a local one that ends with the command."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.bootstrap.nodes import RunNeeds, require_nodes
from cluster.bootstrap.ray_environment import cluster_address
from cluster.bootstrap.store_room import shared_memory_note
from cluster.bootstrap.upload import UPLOAD_FIX, upload_of
from cluster.run_errors import CannotStart

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def connected(needs: RunNeeds, own_cpus: float) -> Iterator[bool]:
    """Connect to Ray for the block; yield True for a joined cluster, False for one started here with `own_cpus`.

    Only a Ray that was started here is stopped: a trial of a scan lives in a process that is and stays connected.
    Raises CannotStart.
    """
    if ray.is_initialized():
        yield True
        return
    address, on_term = cluster_address(needs.cluster), signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None:
        own = {"num_cpus": own_cpus, "include_dashboard": False, "object_store_memory": needs.store_bytes}
        try:
            ray.init(address="local", **own, **quiet)
        except (OSError, RayError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            cure = "free memory, disk and processes, or export RAY_TMPDIR=FOLDER, a short path with room"
            raise CannotStart(f"ray.init: no Ray could be started here ({reason}). Fix: {cure}.") from error
    else:
        # A submitted job brings the code along; a driver from outside must send it.
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        if not submitted and (refusal := upload_of(_CHECKOUT).too_large):
            raise CannotStart(f"cluster.address={address}: {refusal}. Fix: {UPLOAD_FIX}.")
        try:
            ray.init(address=address, runtime_env=None if submitted else {"working_dir": str(_CHECKOUT)}, **quiet)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CannotStart(
                f"cluster.address={address}: no Ray could be joined ({reason}). Fix: write it, or "
                "RAY_ADDRESS, as HOST:PORT of a head that runs (ray start --head prints it)."
            ) from error
    if callable(on_term):  # Ray's own would end its processes under the run, and this one by abort
        signal.signal(signal.SIGTERM, on_term)
    try:
        yield address is not None
    finally:
        ray.shutdown()


@contextmanager
def ray_session(needs: RunNeeds, say: Callable[[str], None]) -> Iterator[None]:
    """Connect for the block to a Ray that has room for the run.

    `say` takes lines about missing nodes. Raises CannotStart for a run that does not fit.
    """
    if cluster_address(needs.cluster) is None and (note := shared_memory_note(needs.store_bytes)) is not None:
        say(note)
    with connected(needs, needs.cpus) as joined:
        require_nodes(needs, joined, say)
        yield
