"""What stands at Ray's metrics port."""

import re

from ray.util.metrics import Counter, Gauge

from cluster.pool.prometheus import RayMetrics

ALLOWED = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
KEYS = ["student/loss", "replay/distance_age_12", "waited/student_windows_s", "windows/refused_not_finite", "odd-key.1"]


def instruments(keys):
    metrics = RayMetrics()
    metrics.show(dict.fromkeys(keys, 1.0))
    assert metrics.instruments.keys() == set(keys)
    return [metrics.instruments[key] for key in keys]


def test_every_key_becomes_a_name_that_prometheus_allows_and_no_two_the_same():
    names = [instrument.info["name"] for instrument in instruments(KEYS)]
    assert all(ALLOWED.fullmatch(name) and name.startswith("longtake_") for name in names)
    assert len(set(names)) == len(names)


def test_what_an_interval_adds_is_counted_and_what_is_now_is_gauged():
    counted = ["bytes/windows_in", "weights/pulls", "waited/publish_s", "rollout/blocks"]
    gauged = ["student/loss", "learner/busy_share", "buffer/depth", "windows/taken", "weights/versions_per_s"]
    assert {type(instrument) for instrument in instruments(counted)} == {Counter}
    assert {type(instrument) for instrument in instruments(gauged)} == {Gauge}


def test_each_number_has_one_instrument_for_the_whole_run_and_what_is_no_number_has_none():
    metrics = RayMetrics()
    for depth in range(3):
        metrics.show({"buffer/depth": depth, "bytes/windows_in": 10 * depth, "buffer/starts": {"critic": {0: 1}}})
    assert metrics.instruments.keys() == {"buffer/depth", "bytes/windows_in"}
    assert isinstance(metrics.instruments["bytes/windows_in"], Counter)
