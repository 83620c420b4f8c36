"""What a reward pool makes of a process whose GPU has failed."""

import asyncio
from types import SimpleNamespace

import pytest
import ray
import torch
from ray.exceptions import RayTaskError

import settings
from cluster.pool.reward_pool import Answer, RewardPool
from cluster.run_errors import RunFailed
from cluster.runs.stage_spec import stage_spec
from cluster.supply.wire import Header
from models.records import GRPO

GROUP = Header("Group", role=GRPO, layout={"latents": ("float32", (2, 12, 1, 4, 4))})
SCORES = {"continuity": [[0.5], [0.25]]}


class Answering:
    """A process of rewards that gives one answer, or raises it."""

    def __init__(self, answer):
        self.answer = answer
        self.node = SimpleNamespace(remote=self._node)
        self.score = SimpleNamespace(remote=self._score)

    async def _node(self):
        return "node"

    async def _score(self, *_):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def scored(monkeypatch, cause: Exception):
    """Score by a pool whose first process raises `cause`; returns the header, the lines and the killed processes."""
    killed, said = [], []
    monkeypatch.setattr(ray, "kill", killed.append)
    config = settings.load(["preset=tiny", "stage=grpo", "cluster.reward_actors=1"])
    pool = RewardPool(config.cluster, stage_spec("grpo", config).scorer, said.append)
    waiting = [Answering(RayTaskError("score", "traceback", cause)), Answering(Answer(SCORES, {}, False))]
    first = waiting[0]
    monkeypatch.setattr(pool, "_new", lambda: waiting.pop(0))
    return asyncio.run(pool.score(GROUP, ())), said, killed == [first]


def test_a_failed_gpu_costs_its_process_and_no_scores(monkeypatch):
    error = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch")
    header, said, replaced = scored(monkeypatch, error)
    assert header.scores == SCORES and replaced
    assert len(said) == 1 and "ECC" in said[0] and "\n" not in said[0]


def test_a_bug_of_the_scoring_still_ends_the_run(monkeypatch):
    with pytest.raises(RunFailed, match="KeyError"):
        scored(monkeypatch, KeyError("x"))
