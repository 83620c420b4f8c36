"""docs/reference/metrics.md names every key that a run logs, and no other."""

import itertools
import json
import re
import time
import urllib.request

import pytest

import settings
import train
from cluster.autoscale.loop import Autoscaling
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.launch import launch, preflight
from cluster.pool.slots import Slots
from cluster.pool.workload import Workload
from cluster.runs.factory import make_supply
from cluster.supply.validation import BadWindow
from tests.fakes.small_runs import StandingPool

PAGE = settings.ROOT / "docs/reference/metrics.md"


def named():
    """Keys in the first column of the page's tables; <...> stands for anything."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [re.match(r"\| `([^`]+)` \|", row)[1] for row in rows]


def pattern(key):
    return re.compile(re.sub("<[^>]+>", "[a-z0-9_]+", key))


def logged_by(config):
    with open(f"{config.run_dir}/metrics.jsonl") as file:
        return {key for line in file for key in json.loads(line)}


def run(*arguments):
    config = settings.load(["cluster=inline", *arguments])
    preflight(config)
    return launch(train.loop, config)


def refused(config):
    """What the supply tells of a window that was refused."""
    supply = make_supply("dmd", config)
    supply.refuse(BadWindow("not_finite", "a window with NaN"))
    return supply.metrics().keys()


def scaled(config):
    """What a pool that sizes itself tells, once a window was made and taken."""
    seconds = itertools.count(step=10.0)
    meter = Meter(1.0, clock=lambda: next(seconds))
    autoscaling = Autoscaling(AutoscaleConfig(measured_s=1.0), meter, config.run_dir)
    autoscaling.meter.taken(1)
    autoscaling.meter.dispatched(1)
    autoscaling.meter.ended(1, 1.0)
    autoscaling.look(1, make_supply("dmd", config).buffer, "dmd")
    return autoscaling.metrics.keys()


def pool_metrics():
    meter = Meter(20.0)
    return Workload(Slots(StandingPool(1), meter, {}, print), meter).metrics()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """By source: inline runs of every stage, both halves of stage dmd alone, and what only the Ray pool tells."""
    run_dir = tmp_path_factory.mktemp("doc") / "run"
    smoke = ["preset=smoke", f"run_dir={run_dir}"]
    alone = [*smoke, "stage=dmd", "debug.count=8"]
    config = run(*smoke)
    return {
        "smoke": logged_by(config),
        "rollout_only": logged_by(run(*alone, "debug.rollout_only=true")),
        "learner_only": logged_by(run(*alone, "debug.learner_only=true")),
        "refused": set(refused(config)),
        "pool": set(pool_metrics()),
        "autoscale": set(scaled(config)),
    }


@pytest.mark.slow
def test_every_key_that_is_logged_is_explained(logged):
    patterns = [pattern(key) for key in named()]
    for source, keys in logged.items():
        unknown = sorted(key for key in keys if not any(p.fullmatch(key) for p in patterns))
        assert not unknown, f"{source} logs {unknown}: explain them in docs/reference/metrics.md"


@pytest.mark.slow
def test_every_key_that_is_explained_is_logged(logged):
    keys = set().union(*logged.values())
    missing = sorted(key for key in named() if not any(pattern(key).fullmatch(k) for k in keys))
    assert not missing, f"nothing logs {missing}: take them out of docs/reference/metrics.md"


def test_no_key_is_explained_twice_and_every_row_has_a_unit_and_a_meaning():
    keys = named()
    assert len(keys) == len(set(keys)) > 40
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            assert re.fullmatch(r"\| `\S+` \| [^|]+ \| [^|]+ \| ([^|]+ )?\|", line), line


@pytest.mark.ray
def test_the_verbs_on_ray_wait_for_causes_that_the_page_lists(local_ray, small_config):
    from cluster.pool.coordinator import Coordinator
    from cluster.ray_cluster import RayCluster
    from models.network_config import TINY
    from models.records import CRITIC
    from models.wan.network import Wan

    config = small_config()
    coordinator = local_ray.remote(Coordinator).options(num_cpus=0, max_concurrency=1000).remote(config)
    cluster = RayCluster(coordinator)
    cluster.begin("dmd", config)
    cluster.publish(Wan(TINY).state_dict(), 0)
    cluster.take(CRITIC, 4)
    cluster.state()
    metrics = cluster.metrics()
    report = cluster.report(metrics)
    patterns = [pattern(key) for key in named()]
    assert all(any(p.fullmatch(key) for p in patterns) for key in metrics)
    for cause in (key.removeprefix("waited/").removesuffix("_s") for key in metrics if key.startswith("waited/")):
        assert f"`{cause}`" in PAGE.read_text()
    assert {"waited/begin_s", "waited/publish_s", "waited/critic_windows_s"} <= metrics.keys()
    shares = [metrics[f"rollout/{what}_share"] for what in ("busy", "starting", "idle")]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0 and 0 <= metrics["learner/busy_share"] <= 1
    processes = {span.process.split(" (")[0] for span in report.spans}
    assert processes == {"learner 0", "rollout 0"}
    assert "\nray_longtake_buffer_depth{" in scraped(local_ray, "\nray_longtake_bytes_windows_in")


def scraped(ray, awaited):
    """The metrics port's page, as soon as it names a metric: Ray reports every few seconds."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with urllib.request.urlopen(address, timeout=30) as answer:
            page = answer.read().decode()
        if awaited in page:
            return page
        time.sleep(0.5)
    pytest.fail(f"{awaited} does not appear at {address}")
