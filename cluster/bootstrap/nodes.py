"""The nodes of a Ray that is joined: waiting for them aloud, and asking them for the run's folders."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.config.run_config import Config
from cluster.errors import CannotStart
from cluster.planning import placement
from cluster.planning.placement import Node

_POLL_S = 0.5


def registered() -> list[Node]:
    """The nodes that are alive."""
    return [
        Node(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), node["Labels"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def wait_for_nodes(config: Config, say: Callable[[str], None]) -> None:
    """Return when the nodes have free room for what the run begins with; until then `say` what is missing, once per
    change.

    What waits is a placement group, which takes the room when all of it is there and gives it back at once, to the
    processes. Ray's autoscaler sees it beside what other runs wait for; of `request_resources` a cluster has only one,
    and two runs would overrule each other. Raises CannotStart after cluster.nodes_timeout_s.
    """
    wanted = placement.at_start(config)
    resources, labels = placement.bundles(wanted)
    room = placement_group(resources, bundle_label_selector=labels)
    try:
        _wait(room, wanted, config.cluster.nodes_timeout_s, say)
    finally:
        remove_placement_group(room)


def _wait(room: PlacementGroup, wanted: list[placement.Role], timeout_s: float, say: Callable[[str], None]) -> None:
    deadline, before = time.monotonic() + timeout_s, None
    while True:
        # Looked at before the wait: behind it, what the room itself has taken would count as in use by others.
        nodes, used = registered(), in_use(placement.unit(wanted))
        time.sleep(_POLL_S)
        if placement_group_table(room)["state"] == "CREATED":  # its own `wait` takes whole seconds only
            return
        lacking = placement.missing(wanted, nodes, used)
        if time.monotonic() > deadline:
            raise CannotStart(
                f"{lacking or 'no room'}: not there within cluster.nodes_timeout_s = {timeout_s:g} s; "
                f"{placement.cure(wanted, nodes)}"
            )
        if lacking not in (None, before):
            say(lacking)
            before = lacking


def in_use(unit: str) -> float:
    """CPUs or GPUs that are in use: those of others, as long as no process of ours is there."""
    return ray.cluster_resources().get(unit, 0.0) - ray.available_resources().get(unit, 0.0)


def require_room(config: Config) -> None:
    """Raise CannotStart at once if the nodes have no room for the run: nobody adds some to a Ray of our own."""
    wanted, nodes = placement.roles(config), registered()
    if placement.missing(wanted, nodes) is not None:
        raise CannotStart(
            f"{placement.cure(wanted, nodes)}; this machine is all there is, for neither cluster.address nor "
            "RAY_ADDRESS names a cluster"
        )


def require_shared_folder(config: Config) -> None:
    """Have every node that may hold a learner rank write into the run's folder, which this process has claimed.

    Raises CannotStart with the first node that cannot.
    """
    for address, fault in _faults(config, [config.cluster.learner_labels], folder_fault, config.run_dir):
        raise CannotStart(
            f"run_dir={config.run_dir} cannot be used on node {address} ({fault}); give a folder on storage that "
            "all nodes share and may write to"
        )


def note_unshared_texts(config: Config, say: Callable[[str], None]) -> None:
    """Have every node that may hold a rank or an actor look into text_cache, and `say` where it is another folder.

    There the text encoder is loaded again, and every prompt encoded once more.
    """
    if not config.in_wan_world:
        return
    folder, labels = config.text_cache_folder, (config.cluster.learner_labels, config.cluster.rollout_labels)
    mark = folder / f".seen_{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        say(f"note: text_cache={folder} cannot be written here ({error.strerror}); give a folder that all nodes share")
        return
    try:
        others = list(_faults(config, labels, mark_fault, config.text_cache, mark.name))
    finally:
        mark.unlink(missing_ok=True)
    if others:
        (address, fault), more = others[0], f" and {len(others) - 1} more" if len(others) > 1 else ""
        say(
            f"note: text_cache={config.text_cache} is not shared by node {address} ({fault}){more}: prompts are "
            "encoded there again; give a folder that all nodes share"
        )


def _faults(
    config: Config, labels: Sequence[Mapping[str, str]], look: Callable[..., str | None], *arguments: str
) -> Iterator[tuple[str, str]]:
    """Addresses of nodes with any of `labels` where `look` finds a fault, or nobody answers, and which."""
    asked = {
        node["NodeManagerAddress"]: _probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(look, *arguments)
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        if any(placement.carries(node["Labels"], wanted) for wanted in labels)
    }
    for address, answer in asked.items():
        try:
            fault = ray.get(answer, timeout=config.cluster.start_timeout_s)
        except GetTimeoutError:
            fault = f"no answer within cluster.start_timeout_s = {config.cluster.start_timeout_s:g} s"
        except RayError as error:
            fault = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if fault is not None:
            yield address, fault


def folder_fault(run_dir: str) -> str | None:
    """Why this machine cannot write into the folder of a run that was claimed elsewhere; None when it can."""
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
    """Why `folder` is not on this machine the one that was marked elsewhere; None when it is."""
    return None if Path(folder, name).is_file() else "another folder"


@ray.remote(num_cpus=0, max_retries=0)
def _probe(look: Callable[..., str | None], *arguments: str) -> str | None:
    return look(*arguments)
