"""The reward pool on a local Ray: what it scores is what one process would, and no reward takes the run with it."""

import asyncio
import math
import re
from dataclasses import replace

import pytest
import ray
import torch

from cluster.run_errors import RunFailed
from cluster.runs.factory import make_scorer
from cluster.runs.stage_spec import stage_spec
from cluster.supply.ledger import RewardFails, ScoreLedger
from cluster.supply.wire import BadWindow, Header, seal
from models.records import GRPO, SENTINEL, Group, MadeBlock
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video, to_latents
from rewards.reward_config import RewardConfig

OWN = "tests.fakes.own_rewards.Brightness"

pytestmark = pytest.mark.ray


def group(prompt: str = PROMPTS[0], role: str = GRPO) -> Group:
    """Two members of one horizon behind another, of real videos, and how the first of them began."""
    videos = [sample_video(PROMPTS[0], 24, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    latents = to_latents(torch.stack(videos))
    return Group(
        3, 0, 0, role, prompt, 0, 12, 3, (), (0,) * 8, latents[0, :12], latents[:, 12:], latents[:, 12:],
        *(latents.new_zeros(2, 0, 12, *latents.shape[2:]) for _ in range(3)),
    )  # fmt: skip


def stored(item):
    """Its header, and its payload in Ray's store."""
    header, payload = seal(item)
    return replace(header, payload=ray.put(payload))


def first_blocks(judged):
    return [stored(MadeBlock(0, 0, judged.context[None], {}))]


class Judged:
    """A pool of one process, in an event loop that outlives the single call, and what it said."""

    def __init__(self, config):
        from cluster.pool.reward_pool import RewardPool

        self.said = []
        self.pool = RewardPool(config.cluster, stage_spec("grpo", config).scorer, self.said.append)
        self.runner = asyncio.Runner()

    def __call__(self, judged: Group) -> Header:
        self.said.clear()
        return self.runner.run(asyncio.wait_for(self.pool.score(stored(judged), first_blocks(judged)), 120))

    def spans(self):
        return self.pool.drain_spans()

    def process(self):
        """The one process, while it is idle; asking for a group first starts it."""
        if not self.pool.staying:
            self(group())
        place, process = self.pool.idle.get_nowait()
        self.pool.idle.put_nowait((place, process))
        return process


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    from cluster.config.cluster_config import ClusterConfig
    from cluster.config.run_config import Config

    made = Config(run_dir=str(tmp_path_factory.mktemp("rewards")), cluster=ClusterConfig(start_timeout_s=120.0))
    made.reward = RewardConfig(terms={OWN: 1.0, "continuity": 0.5}, upsample=4, timeout_s=2.0)
    made.sentinel.metrics = ["exposure_drift"]
    return made


@pytest.fixture(scope="module")
def judge(local_ray, config):
    made = Judged(config)
    yield made
    while not made.pool.idle.empty():
        local_ray.kill(made.pool.idle.get_nowait()[1])
    made.runner.close()


def missing(scores) -> bool:
    return all(math.isnan(score) for windows in scores for score in windows)


@pytest.mark.parametrize("role", [GRPO, SENTINEL])
def test_a_group_scored_by_a_process_has_the_scores_that_it_would_have_inline(judge, config, role):
    asked = group(role=role)
    scored, inline = judge(asked), make_scorer(stage_spec("grpo", config).scorer)(asked, asked.context).group
    assert scored.scores == inline.scores
    assert list(scored.scores) == ([OWN, "continuity"] if role == GRPO else ["exposure_drift"])
    assert all(0 < score < 1 for windows in scored.scores.values() for (score,) in windows), scored.scores
    assert not judge.said
    (span,) = judge.spans()
    assert (span.process, span.name) == ("reward 0", "score") and span.duration_s > 0


def test_a_reward_that_raises_costs_its_own_scores_only_and_its_reason_is_told_once(judge):
    first = judge(group("raises"))
    assert missing(first.scores[OWN]) and not missing(first.scores["continuity"])
    (line,) = judge.said
    assert OWN in line and "RuntimeError: no-weights" in line
    judge(group("raises"))
    assert not judge.said


def test_what_no_reward_is_to_blame_for_stops_the_run_under_its_own_name(judge):
    whole = group()
    broken = replace(whole, latents=whole.latents[:, :11], noisy=whole.noisy[:, :11])
    with pytest.raises(RunFailed, match=r"\b0\b.*\b3\b.*reward\.window_frames=12"):
        judge(broken)


@pytest.mark.core
@pytest.mark.proof
def test_a_group_with_damaged_bytes_is_refused_by_name_and_its_process_scores_the_next(judge):
    process, damaged = judge.process(), replace(stored(group()), checksum=0)
    with pytest.raises(BadWindow) as refused:
        judge.runner.run(judge.pool.score(damaged, first_blocks(group())))
    assert refused.value.reason == "checksum"
    assert not missing(judge(group()).scores[OWN]) and judge.process() == process


@pytest.mark.core
@pytest.mark.proof
def test_a_reward_that_hangs_is_masked_and_its_process_replaced_before_the_next_group_is_scored(judge):
    process = judge.process()
    scored = judge(group("hangs"))
    assert missing(scored.scores[OWN]) and not missing(scored.scores["continuity"])
    assert any("reward.timeout_s=2 " in line for line in judge.said), judge.said
    after = judge(group())
    assert not missing(after.scores[OWN])
    assert judge.pool.idle.qsize() == 1 and judge.process() != process


@pytest.mark.core
@pytest.mark.proof
def test_a_group_that_kills_three_processes_is_scored_by_nobody_counted_and_the_next_one_scored(judge):
    judge.spans()
    scored = judge(group("dies"))
    assert missing(scored.scores[OWN]) and missing(scored.scores["continuity"])
    assert [[len(windows) for windows in scores] for scores in scored.scores.values()] == [[1, 1], [1, 1]]
    assert sum("ActorDiedError" in line for line in judge.said) == 3 == len(judge.spans())
    assert re.findall(r"\d+", judge.said[-1])[:3] == ["3", "0", "3"]
    book = ScoreLedger(RewardConfig())
    book.note(scored.scores)
    assert book.metrics() == {f"reward/{OWN}/failed": 2, "reward/continuity/failed": 2}
    with pytest.raises(RewardFails, match=r"100% .*\b16\b"):
        for _ in range(24):
            book.note(scored.scores)
    assert not missing(judge(group()).scores[OWN])


@pytest.mark.proof
def test_processes_follow_the_rollout_pool_and_who_is_at_work_leaves_when_it_has_its_scores(local_ray, config):
    config = replace(config, cluster=replace(config.cluster, reward_actors=2))
    own = Judged(config)
    own.pool.fit(1, ())
    own(group())
    assert own.pool.idle.qsize() == 1
    (here,) = own.pool.nodes.values()
    own.pool.fit(3, {here})
    assert own.pool.idle.qsize() == 2, "cluster.reward_actors at most"

    async def scored_while_one_leaves():
        scoring = [asyncio.create_task(own.pool.score(stored(group()), first_blocks(group()))) for _ in range(2)]
        while not own.pool.idle.empty():
            await asyncio.sleep(0)
        own.pool.fit(1, {here})
        assert own.pool.leaving == {1}
        return await asyncio.wait_for(asyncio.gather(*scoring), 120)

    assert not any(missing(scores.scores[OWN]) for scores in own.runner.run(scored_while_one_leaves()))
    assert own.pool.idle.qsize() == 1 and own.pool.staying == {0} and not own.pool.leaving
    assert not missing(own(group()).scores[OWN]) and not own.said
    local_ray.kill(own.process())
    own.runner.close()
