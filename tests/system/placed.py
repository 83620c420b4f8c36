"""Runs that join a cluster of three labelled nodes, and two more. A script of its own: it brings that cluster."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["CXX"] = "no-compiler"  # the nodes inherit it

import ray
from ray.cluster_utils import Cluster

import settings
from cluster.bootstrap.nodes import needs_of, note_unshared_texts
from cluster.bootstrap.ray_session import ray_session
from cluster.config.run_config import Config
from cluster.launch import preflight
from cluster.planning import placement
from cluster.pool.rollout_process import place_of_process
from cluster.run_errors import CannotStart
from tests.fakes.commands import replaced

_ANOTHER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1, label_selector={"role": "rollout"})
class Theirs:
    def there(self): return "there"
theirs = Theirs.remote()
print(ray.get(theirs.there.remote(), timeout=120), flush=True)
sys.stdin.read()
"""
SMALL = {"object_store_memory": 100 * 2**20}
LABELS = ["cluster.learner_labels={role:learner}", "cluster.rollout_labels={role:rollout}"]
FOLDERS = Path(tempfile.mkdtemp())


def main() -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | SMALL)
    nodes.add_node(num_cpus=2, labels={"role": "learner"}, **SMALL)
    nodes.add_node(num_cpus=1, labels={"role": "rollout", "ray.io/market-type": "spot"}, **SMALL)
    seen = {"refused": refusals(nodes)}
    on_demand = {"role": "rollout", "ray.io/market-type": "on-demand"}
    heard: list[str] = []

    def say(line: str) -> None:
        """Each complaint brings one more node."""
        heard.append(line)
        nodes.add_node(num_cpus=1, labels=on_demand, **SMALL)

    prefers = "cluster.rollout_prefers={ray.io/market-type:spot}"
    config = made(nodes, "run", *LABELS, prefers, "cluster.rollout_actors=3")
    with ray_session(needs_of(config), say):
        seen |= {"heard": heard, "texts": notes()} | places(config)
    seen["left_in_text_cache"] = [path.name for path in FOLDERS.glob("*texts/*")]
    nodes.add_node(num_cpus=4, num_gpus=2, labels={"role": "gpus"}, **SMALL)
    ray.init(nodes.address, log_to_driver=False)
    seen["gpus"] = gpus_of(shares=[0.5, 0.5, 0.75])
    ray.shutdown()
    print(json.dumps(seen))
    nodes.shutdown()


def made(nodes: Cluster, name: str, *arguments: str) -> Config:
    keys = [f"cluster.address={nodes.address}", f"run_dir={FOLDERS / name}", "cluster.nodes_timeout_s=60"]
    config = settings.load(replaced(["preset=smoke", "stage=[teacher,ode,dmd]", *keys], *arguments))
    preflight(config)
    return config


def refusals(nodes: Cluster) -> dict[str, str]:
    """By what is lacking, what is said."""
    now, said = "cluster.nodes_timeout_s=1", {}
    for name, arguments in {
        "label": [now, "cluster.learner_labels={role:trainer}"],
        "gpu": [now, "cluster.rank_gpus=1"],
        "room": [now, "cluster.rollout_actors=4"],
        "taken": [now, *LABELS],
        "compiler": [*LABELS, "rollout.compile=true"],
        "folder": LABELS,
    }.items():
        config = made(nodes, name, *arguments)
        if name == "folder":
            (FOLDERS / name / "config.yaml").unlink()
        try:
            with (
                another_run(nodes.address) if name == "taken" else nullcontext(),
                ray_session(needs_of(config), lambda _: None),
            ):
                said[name] = "let in"
        except CannotStart as error:
            said[name] = str(error)
    return said


def notes() -> dict[str, list[str]]:
    """By where texts are kept, what is said of it."""
    said: dict[str, list[str]] = {"shared": [], "/proc/self/cwd/texts": [], "/proc/texts": []}
    with chdir(FOLDERS):  # where no other process is: under this name each has a folder of its own
        for name, heard in said.items():
            folder = f"{FOLDERS}/shared_texts" if name == "shared" else name
            config = settings.load(["preset=wan_1_3b", *LABELS, f"text_cache={folder}"])
            note_unshared_texts(needs_of(config), heard.append)
    return said


@contextmanager
def another_run(address: str) -> Iterator[None]:
    """A job of somebody else has the one rollout node, until the block ends."""
    job = subprocess.Popen([sys.executable, "-c", _ANOTHER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert job.stdout.readline() == b"there\n"
        yield
    finally:
        job.stdin.close()
        job.wait(timeout=120)


@ray.remote
class Placed:
    """What runs of each role are reduced to here."""

    def labels(self) -> dict[str, str]:
        return place_of_process().labels

    def place(self):
        return place_of_process()


def gpus_of(shares: list[float]) -> list[list[str]]:
    """What processes with these shares of a GPU say that they hold, on a node with two."""
    own = [Placed.options(num_gpus=share, label_selector={"role": "gpus"}).remote() for share in shares]
    return [list(place.gpus) for place in ray.get([actor.place.remote() for actor in own], timeout=120)]


def places(config: Config) -> dict[str, object]:
    """By role, the labels of the nodes that its processes got."""
    ranks, pool = (
        placement.options(placement.learner(config.cluster)),
        placement.options(placement.rollout(config.cluster)),
    )
    learner = [Placed.options(**ranks).remote() for _ in range(2)]
    rollout = {}
    for _ in range(3):
        actor = Placed.options(**pool).remote()
        rollout[actor] = ray.get(actor.labels.remote(), timeout=120)["ray.io/market-type"]
    found = {
        "learner": [labels["role"] for labels in ray.get([actor.labels.remote() for actor in learner], timeout=120)],
        "rollout": sorted(rollout.values()),
    }
    ray.kill(next(actor for actor, market in rollout.items() if market == "spot"))
    another = Placed.options(**pool).remote()
    again = ray.get(another.labels.remote(), timeout=120)["ray.io/market-type"]
    return found | {"after one on the spot node was lost": again}


main()
