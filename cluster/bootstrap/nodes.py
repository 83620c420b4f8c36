"""Check that Ray's nodes have room for a run, and that each can use the run's folders."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bootstrap.machine_needs import MachineNeed, machine_needs
from cluster.bootstrap.ray_environment import cluster_address
from cluster.bootstrap.store_room import store_notes
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.planning import memory, placement
from cluster.planning.placement import Node, Role
from cluster.planning.shortage_cure import cure
from cluster.run_errors import CannotStart
from models.user_paths import user_path

_POLL_S = 0.5
_OWN_STORE_BYTES = 512 * 2**20
"""Smallest object store of a Ray of our own."""


@dataclass(frozen=True)
class RunNeeds:
    """Holds the requirements of a run on Ray's nodes."""

    cluster: ClusterConfig
    roles: list[Role]
    """Processes of the run, the pool at its largest."""
    first_roles: list[Role]
    """Processes without which the run cannot begin."""
    run_dir: str
    text_cache: str | None
    """Folder of encoded prompts; None outside Wan's world."""
    store_bytes: int
    """Object store of a local Ray, and of the driver's node of a cluster, in bytes: see `memory.store_sizes`."""
    versions_bytes: int = 0
    """Object store of every other node in bytes: versions of the weights."""
    machines: Sequence[MachineNeed] = ()
    """Compilers and drivers that the nodes must have."""

    @property
    def cpus(self) -> float:
        """Count the CPUs of a Ray that is started for one run."""
        return sum(role.processes * role.cpus for role in self.roles)


def needs_of(config: Config) -> RunNeeds:
    """Derive the requirements on the nodes from a run's configuration."""
    store_bytes, versions_bytes = memory.store_sizes(config, versions=3 if config.evaluated_stages else 2)
    return RunNeeds(
        config.cluster,
        placement.roles(config),
        placement.at_start(config),
        config.run_dir,
        config.text_cache if config.in_wan_world else None,
        store_bytes if cluster_address(config.cluster) else max(_OWN_STORE_BYTES, store_bytes),
        versions_bytes,
        machine_needs(placement.roles(config), config.learner, config.rollout),
    )


def registered() -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), node["Labels"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def wait_for_nodes(wanted: list[Role], timeout_s: float, say: Callable[[str], None]) -> None:
    """Wait until the nodes have room for `wanted`; `say` the shortage once per change.

    A placement group waits for the room: it takes it when all of it is free, and gives it back at once, to the
    processes. Ray's autoscaler sees it next to the requests of other runs; of `request_resources` a cluster has only
    one, and two runs would overrule each other. Raises CannotStart after `timeout_s`.
    """
    resources, labels = placement.bundles(wanted)
    room = placement_group(resources, bundle_label_selector=labels)
    unit = "GPU" if any(role.gpus for role in wanted) else "CPU"
    deadline, before = time.monotonic() + timeout_s, None
    try:
        while True:
            # Read before the sleep: after it, the room itself would count as in use by others.
            nodes = registered()
            in_use = ray.cluster_resources().get(unit, 0.0) - ray.available_resources().get(unit, 0.0)
            time.sleep(_POLL_S)
            if placement_group_table(room)["state"] == "CREATED":  # its own `wait` takes whole seconds only
                return
            lacking = placement.shortage(wanted, nodes, in_use)
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"cluster.nodes_timeout_s={timeout_s:g}: {lacking or 'no room'}, for longer than that. "
                    f"Fix: {cure(wanted, nodes)}."
                )
            if lacking not in (None, before):
                say(lacking)
                before = lacking
    finally:
        remove_placement_group(room)


def require_nodes(needs: RunNeeds, joined: bool, say: Callable[[str], None]) -> None:
    """Wait until the connected Ray has room for the run. Raises CannotStart.

    `joined` marks a cluster, whose nodes may still register and must share the run's folders. A local Ray never gets
    more nodes.
    """
    if joined:
        wait_for_nodes(needs.first_roles, needs.cluster.nodes_timeout_s, say)
        for machine in needs.machines:
            labels, gpus = [machine.role.labels], machine.role.gpus
            for address, fault in _faults(needs.cluster, labels, machine.look, *machine.arguments, gpus=gpus):
                raise CannotStart(str(machine.error(f"{fault} (node {address})")))
        # Every node that may hold a learner rank writes into the run's folder, which this process has claimed.
        for address, fault in _faults(needs.cluster, [needs.cluster.learner_labels], folder_fault, needs.run_dir):
            raise CannotStart(
                f"run_dir={needs.run_dir}: it cannot be used on node {address} ({fault}). Fix: write a folder on "
                "storage that all nodes share and may write to."
            )
        note_unshared_texts(needs, say)
        for line in store_notes(needs.store_bytes, needs.versions_bytes):
            say(line)
        return
    nodes = registered()
    if (lacking := placement.shortage(needs.roles, nodes)) is not None:
        raise CannotStart(
            f"cluster.address=null: {lacking}, and a local Ray has this machine only. Fix: name a cluster here or by "
            f"RAY_ADDRESS, or {cure(needs.roles, nodes)}."
        )


def note_unshared_texts(needs: RunNeeds, say: Callable[[str], None]) -> None:
    """Check that nodes of ranks and actors share text_cache, and `say` which do not.

    On the others the text encoder is loaded again, and every prompt encoded once more.
    """
    if needs.text_cache is None:
        return
    folder = user_path(needs.text_cache, "text_cache")
    labels = (needs.cluster.learner_labels, needs.cluster.rollout_labels)
    mark = folder / f".seen_{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        say(f"note: text_cache={folder} cannot be written here ({error.strerror}); give a folder that all nodes share")
        return
    try:
        others = list(_faults(needs.cluster, labels, mark_fault, needs.text_cache, mark.name))
    finally:
        mark.unlink(missing_ok=True)
    if others:
        (address, fault), more = others[0], f" and {len(others) - 1} more" if len(others) > 1 else ""
        say(
            f"note: text_cache={needs.text_cache} is not shared by node {address} ({fault}){more}: prompts are "
            "encoded there again; give a folder that all nodes share"
        )


def _faults(
    cluster: ClusterConfig, labels: Sequence[Mapping[str, str]], look: Callable[..., str | None], *arguments: str,
    gpus: float = 0.0,
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Yield address and fault of nodes with any of `labels` where `look` finds one, or that do not answer.

    With `gpus` above 0 only nodes that have a GPU are meant.
    """
    # Asked again: a process that could not start, or import this code, says nothing of its node.
    probe = ray.remote(num_cpus=0, max_retries=2, retry_exceptions=True)(look)
    asked = {
        node["NodeManagerAddress"]: probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1 and (not gpus or node["Resources"].get("GPU", 0))
        if any(placement.has_labels(node["Labels"], wanted) for wanted in labels)
    }
    for address, answer in asked.items():
        try:
            fault = ray.get(answer, timeout=cluster.start_timeout_s)
        except GetTimeoutError:
            fault = f"no answer within cluster.start_timeout_s = {cluster.start_timeout_s:g} s"
        except RayError as error:
            fault = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if fault is not None:
            yield address, fault


def folder_fault(run_dir: str) -> str | None:
    """Return the reason why this machine cannot write into a run folder claimed elsewhere, or None."""
    folder = Path(run_dir)
    if not (folder / "config.yaml").is_file():
        return "the run's config.yaml is not seen there"
    trial = folder / f".written_{os.getpid()}_{uuid.uuid4().hex}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        return f"not writable there: {error.strerror}"
    return None


def mark_fault(folder: str, name: str) -> str | None:
    """Return the reason why `folder` here is not the folder marked elsewhere, or None."""
    return None if Path(folder, name).is_file() else "another folder"
