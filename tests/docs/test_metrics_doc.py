"""docs/reference/metrics.md names every key that a run logs, and no other."""

import re
import time
import urllib.request

import pytest

from cluster.runs.stage_spec import stage_spec
from tests.docs.documented import METRICS, metric_keys, pattern


def test_no_key_is_explained_twice_and_every_row_has_a_unit_and_a_meaning():
    keys = metric_keys()
    assert len(keys) == len(set(keys)) > 40
    for line in METRICS.read_text().splitlines():
        if line.startswith("| `"):
            assert re.fullmatch(r"\| `\S+` \| [^|]+ \| [^|]+ \| ([^|]+ )?\|", line), line


@pytest.mark.proof
@pytest.mark.core
@pytest.mark.ray
def test_the_verbs_on_ray_wait_for_causes_that_the_page_lists(local_ray, small_config):
    from cluster.pool.coordinator import Coordinator
    from cluster.ray_cluster import RayCluster
    from models.network_config import TINY
    from models.records import CRITIC
    from models.wan.network import Wan

    config = small_config()
    coordinator = (
        local_ray.remote(Coordinator)
        .options(num_cpus=0, max_concurrency=1000)
        .remote(config.cluster, config.autoscale, config.run_dir)
    )
    cluster = RayCluster(coordinator)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(Wan(TINY).state_dict, 0)
    cluster.take(CRITIC, 4)
    cluster.state()
    metrics = cluster.metrics()
    report = cluster.report(metrics)
    patterns = [pattern(key) for key in metric_keys()]
    assert all(any(p.fullmatch(key) for p in patterns) for key in metrics)
    for cause in (key.removeprefix("waited/").removesuffix("_s") for key in metrics if key.startswith("waited/")):
        assert f"`{cause}`" in METRICS.read_text()
    assert {"waited/begin_s", "waited/publish_s", "waited/critic_windows_s"} <= metrics.keys()
    shares = [metrics[f"rollout/{what}_share"] for what in ("busy", "starting", "idle")]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0 and 0 <= metrics["learner/busy_share"] <= 1
    processes = {span.process.split(" (")[0] for span in report.spans}
    assert processes == {"learner 0", "rollout 0"}
    scraped(local_ray, "\nray_longtake_buffer_depth{", "\nray_longtake_bytes_windows_in")


def scraped(ray, *awaited):
    """Wait until the metrics port's page names all of these metrics: Ray reports every few seconds."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with urllib.request.urlopen(address, timeout=30) as answer:
            page = answer.read().decode()
        if all(text in page for text in awaited):
            return
        time.sleep(0.5)
    pytest.fail(f"{awaited} does not appear at {address}")
