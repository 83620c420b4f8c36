"""The actors' recorded policy against the learner's own view of it, over the wire, before any update."""

import pytest
import torch

from actors.rollout_config import GroupConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.runs.stage_spec import stage_spec
from learner.parallel.collectives import all_gather_columns
from learner.policy_batches import PolicyBatches
from learner.policy_config import GrpoConfig
from models.network_config import TINY
from models.records import GRPO
from models.wan.network import Wan
from models.worlds.tiny_world import encode_text
from rewards.sentinels import SentinelConfig

GROUPS, MEMBERS = 6, 2

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def student() -> Wan:
    """Random weights, with gates far from their initial values: what the cache holds matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Wan(TINY)
        for p in network.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.1 if p.ndim == 2 else 0.3)
    return network


@pytest.fixture(scope="module")
def taken(local_ray, tmp_path_factory):
    """Groups that came from an actor and a reward process on Ray, with the spans of all processes."""
    from cluster.config.run_config import Config
    from cluster.ray_cluster import RayCluster
    from cluster.ray_launch import start_coordinator

    config = Config(run_dir=str(tmp_path_factory.mktemp("policy")), cluster=ClusterConfig(timeout_s=120.0))
    config.rollout.frames, config.rollout.batch, config.buffer.max_age = 72, GROUPS, 64
    config.group = GroupConfig(members=MEMBERS, transitions="all", noise="first", burn_in_frames=27, forks=1)
    config.sentinel = SentinelConfig(prompts=1, frames=24, metrics=["exposure_drift"])
    config.grpo = GrpoConfig(groups=GROUPS)
    cluster = RayCluster(start_coordinator(config.cluster, config.autoscale, config.run_dir))
    cluster.begin(stage_spec("grpo", config))
    cluster.publish(student().state_dict, 0)
    groups = cluster.take(GRPO, GROUPS)
    yield config, groups, cluster.report({}).spans
    local_ray.kill(cluster.coordinator)


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
def test_the_ratio_to_what_the_actor_recorded_is_one_before_any_update_for_every_transition(taken, loss):
    """Full burn-in: 27 frames before the 9 of the cache, as far as four layers can see."""
    config, groups, _ = taken
    shape = config.student
    rolled = [group for group in groups if group.start > shape.context_frames]
    beyond = [group for group in groups if group.start > shape.context_frames + config.group.burn_in_frames]
    assert len(rolled) >= 4 and beyond, [group.start for group in groups]
    network = student()
    batches = PolicyBatches(network, None, encode_text, shape, GrpoConfig(loss=loss), micro_batch=6)
    valid = torch.ones(GROUPS, MEMBERS, 1, dtype=torch.bool)
    parts = batches.snapshot(groups, torch.ones(GROUPS, MEMBERS, 1, dtype=torch.float64), valid)
    replay = all_gather_columns([part.replay for part in parts])
    assert len(replay.error) == GROUPS * MEMBERS * 3 * 4, "every member, transition and block"
    errors = replay.error
    assert not errors.isnan().any() and errors.max() <= 1e-6, errors.max()
    assert (replay.weight == 1).all() and not replay.masked.any()


@pytest.mark.core
@pytest.mark.proof
def test_the_ratio_tells_another_student_from_the_one_that_acted(taken):
    config, groups, _ = taken
    network = student()
    with torch.no_grad():
        network.proj_out.weight.mul_(1.001)
    batches = PolicyBatches(network, None, encode_text, config.student, GrpoConfig(), micro_batch=6)
    values = torch.ones(GROUPS, MEMBERS, 1, dtype=torch.float64)
    error = torch.cat([part.replay.error for part in batches.snapshot(groups, values, values.bool())])
    assert error.median() > 1e-6


@pytest.mark.core
@pytest.mark.proof
def test_groups_come_scored_and_the_time_of_their_judge_stands_in_the_trace(taken):
    config, groups, spans = taken
    for group in groups:
        assert list(group.scores) == list(config.reward.weights)
        assert [len(windows) for windows in group.scores["continuity"]] == [1] * MEMBERS
    judged = [span for span in spans if span.name == "score"]
    assert {span.process for span in judged} == {"reward 0"} and len(judged) >= GROUPS
    ends = [span.started_s + span.duration_s for span in judged]
    assert all(end <= after.started_s for end, after in zip(ends, judged[1:], strict=False)), "spans overlap"
    assert {"block", "continued block"} <= {span.name for span in spans}
