"""The cluster's verbs, the same inline and on Ray."""

import asyncio
import os
import signal
from collections import Counter

import psutil
import pytest
import torch
from scipy.stats import chisquare

from cluster.inline import InlineCluster
from cluster.run_errors import RunFailed
from cluster.runs.stage_spec import stage_spec
from models.network_config import TINY
from models.records import CRITIC, STUDENT
from models.wan.network import Wan
from tests.fakes.processes import own_processes


def weights(seed=0):
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Wan(TINY).state_dict().items()}


@pytest.fixture
def on_ray(local_ray):
    """Makes a cluster on the tests' Ray; its processes end with the test."""
    from cluster.ray_cluster import RayCluster
    from cluster.ray_launch import start_coordinator

    made = []

    def make(config):
        made.append(RayCluster(start_coordinator(config.cluster, config.autoscale, config.run_dir)))
        return made[-1]

    yield make
    for cluster in made:
        local_ray.kill(cluster.coordinator)


def assert_uniform(windows, positions):
    counts = Counter(window.start for window in windows)
    assert set(counts) <= set(positions)
    assert chisquare([counts[start] for start in positions]).pvalue > 1e-4, counts


def test_windows_taken_by_the_learner_start_uniformly_over_every_position(small_config):
    config = small_config()
    cluster = InlineCluster(config.run_dir)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    taken = {STUDENT: [], CRITIC: []}
    for _ in range(15):
        for _ in range(config.dmd.critic_updates):
            taken[CRITIC] += cluster.take(CRITIC, 20)
        taken[STUDENT] += cluster.take(STUDENT, 20)
    for role, windows in taken.items():
        assert {window.role for window in windows} == {role}
        assert_uniform(windows, range(0, 13, 3))


@pytest.mark.ray
@pytest.mark.proof
def test_windows_taken_from_ray_start_uniformly_too(on_ray, small_config):
    config = small_config(cluster__rollout_actors=2)
    cluster = on_ray(config)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    taken = {STUDENT: [], CRITIC: []}
    for _ in range(8):
        for _ in range(config.dmd.critic_updates):
            taken[CRITIC] += cluster.take(CRITIC, 16)
        taken[STUDENT] += cluster.take(STUDENT, 16)
    for windows in taken.values():
        assert_uniform(windows, range(0, 13, 3))
    ids = {(w.rollout, w.index) for windows in taken.values() for w in windows}
    assert len(ids) == 512, "a window came twice"
    assert ids == {(rollout, i) for rollout in range(32) for i in range(16)}, "a rollout was passed over"
    counts = {name.partition("/")[2]: n for name, n in cluster.metrics().items()}
    assert counts["taken"] == 512
    assert counts["dispatched"] == counts["taken"] + counts["depth"] + counts["pending"]


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_windows_of_the_same_weights_are_bit_equal_inline_and_on_ray(on_ray, small_config):
    config = small_config()
    made = {}
    for kind, cluster in (("inline", InlineCluster(config.run_dir)), ("ray", on_ray(config))):
        cluster.begin(stage_spec("dmd", config))
        cluster.publish(weights, 0)
        windows = [w for role, n in ((STUDENT, 50), (CRITIC, 150)) for w in cluster.take(role, n)]
        made[kind] = {(w.rollout, w.index): w for w in windows}
    assert list(made["inline"]) == list(made["ray"]), "the same windows in the same order"
    for key, a in made["inline"].items():
        b = made["ray"][key]
        assert len(set(a.versions)) == len(set(b.versions)) == 1, "one version each"
        assert not set(a.versions) & set(b.versions), "and no number twice"
        assert (a.role, a.start, a.step, a.prompt, a.seed) == (b.role, b.start, b.step, b.prompt, b.seed)
        for name in ("context", "latents", "noisy"):
            assert torch.equal(getattr(a, name), getattr(b, name)), f"{name} of window {key} differs"


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_actors_pull_newer_weights_while_a_video_is_being_made(on_ray, small_config):
    config = small_config(rollout__frames=96, buffer__windows=256, buffer__max_age=64)
    cluster = on_ray(config)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    first = cluster.take(CRITIC, 1)
    cluster.publish(lambda: weights(1), 1)
    later = [w for role, n in ((STUDENT, 32), (CRITIC, 95)) for w in cluster.take(role, n)]
    later += [w for role, n in ((STUDENT, 32), (CRITIC, 96)) for w in cluster.take(role, n)]
    assert first[0].version == 0
    assert any(set(w.versions) == {0, 1} for w in later), "no video changed its weights on the way"
    assert all(list(w.versions) == sorted(w.versions) for w in later), "an actor went back to older weights"


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_a_killed_actor_is_replaced_and_every_window_still_comes_exactly_once(on_ray, small_config):
    config = small_config(rollout__frames=96, buffer__windows=256, buffer__max_age=64)
    cluster = on_ray(config)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    windows = list(cluster.take(CRITIC, 1))
    victims = own_processes("ray::RolloutProcess")
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    windows += [w for role, n in ((STUDENT, 32), (CRITIC, 95)) for w in cluster.take(role, n)]
    assert cluster.metrics()["rollout/actors_lost"] >= 1
    assert {(w.rollout, w.index) for w in windows} == {(r, i) for r in range(8) for i in range(16)}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        pytest.param(signal.SIGTERM, "left", marks=pytest.mark.proof),
        pytest.param(signal.SIGSTOP, "cluster.progress_timeout_s", marks=pytest.mark.proof),
    ],
)
def test_the_videos_of_an_actor_that_must_end_or_hangs_are_continued_by_another(on_ray, small_config, sent, said):
    import ray

    config = small_config(rollout__frames=96, buffer__windows=256, buffer__max_age=64, cluster__progress_timeout_s=8.0)
    cluster = on_ray(config)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    windows = list(cluster.take(CRITIC, 1))
    for pid in own_processes("ray::RolloutProcess"):
        os.kill(pid, sent)
    windows += [w for role, n in ((STUDENT, 32), (CRITIC, 95)) for w in cluster.take(role, n)]
    assert {(w.rollout, w.index) for w in windows} == {(r, i) for r in range(8) for i in range(16)}
    assert {w.attempt for w in windows} == {0}, "the same videos, not new ones"
    _, news, _ = ray.get(cluster.coordinator.look.remote(), timeout=30)
    assert any(said in line for line in news), news


@pytest.mark.ray
@pytest.mark.proof
def test_an_actor_that_dies_while_it_has_nothing_to_do_is_replaced_too(on_ray, small_config):
    config = small_config(ode__pairs=8)
    cluster = on_ray(config)
    cluster.begin(stage_spec("ode", config))
    assert len(cluster.take_all("ode", 8)) == 8
    for pid in own_processes("ray::RolloutProcess"):
        os.kill(pid, signal.SIGKILL)
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(weights, 0)
    assert len(cluster.take(STUDENT, 16)) == 16
    assert cluster.metrics()["rollout/actors_lost"] == 1


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_trajectories_that_are_kept_are_not_made_and_the_others_are_bit_equal_inline_and_on_ray(on_ray, small_config):
    config = small_config(ode__pairs=12)
    made = []
    for cluster in (InlineCluster(config.run_dir), on_ray(config)):
        cluster.begin(stage_spec("ode", config), kept=[0, 3, 4, 5, 6, 7, 9])
        made.append(cluster.take_all("ode", 5))
    assert [pair.rollout for pair in made[0]] == [pair.rollout for pair in made[1]]
    assert {pair.rollout for pair in made[0]} == {1, 2, 8, 10, 11}
    for a, b in zip(*made, strict=True):
        assert (a.prompt, a.seed) == (b.prompt, b.seed)
        assert torch.equal(a.states, b.states) and torch.equal(a.latents, b.latents)


@pytest.mark.ray
def test_when_nothing_arrives_in_time_the_learner_is_told_what_is_missing(on_ray, small_config):
    config = small_config(cluster__timeout_s=0.5)
    cluster = on_ray(config)
    cluster.begin(stage_spec("dmd", config))
    with pytest.raises(RunFailed, match=r"\b4\b.*\bstudent\b.*cluster\.timeout_s = 0\.5"):
        cluster.take(STUDENT, 4)


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_an_actor_that_raises_stops_the_run_with_its_reason(on_ray, small_config):
    config = small_config(teacher="missing.safetensors")
    cluster = on_ray(config)
    cluster.begin(stage_spec("ode", config))
    with pytest.raises(RunFailed, match=r"teacher=.*missing\.safetensors"):
        cluster.take_all("ode", 1)


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_the_loopback_only(on_ray, small_config):
    config = small_config()
    on_ray(config).begin(stage_spec("dmd", config))
    me = psutil.Process()
    ours = {me.pid} | {child.pid for child in me.children(recursive=True)}
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in ours}
    assert listening and all(ip.removeprefix("::ffff:") == "127.0.0.1" for ip in listening), listening


@pytest.mark.ray
def test_a_hand_over_that_fails_is_raised_while_windows_are_waited_for(local_ray):
    from cluster.ray_cluster import RayCluster

    @local_ray.remote(num_cpus=0)
    class Coordinator:
        async def clock(self):
            return 0.0

        async def show(self, phase, shown):
            pass

        async def publish(self, epoch, version, update, source):
            raise OverflowError("no room in the object store")

        async def take(self, *request):
            await asyncio.Event().wait()

    cluster = RayCluster(Coordinator.remote())
    cluster.versions, cluster.dtype, cluster.timeout_s = iter([0, 1]), torch.float32, 600.0
    cluster.publish(weights, 0)
    with pytest.raises(OverflowError):
        cluster.take(STUDENT, 1)
    assert cluster.handover is None, "it is raised once"
    local_ray.kill(cluster.coordinator)
