"""The evaluation process on a local Ray: its numbers are those of this process, and its death loses one evaluation."""

import asyncio
import os
import signal

import pytest

from cluster.config.cluster_config import ClusterConfig
from cluster.evaluations.student_evaluation import StudentEvaluator
from cluster.pool.training_evaluation import TrainingEvaluation
from cluster.weights.version import WeightsVersion
from models.checkpoints.weight_files import stored_tensors
from models.fingerprint import fingerprint
from models.worlds.world_config import SHIPPED_STUDENT
from tests.fakes.evaluated import evaluation_of
from tests.fakes.processes import own_processes

pytestmark = [pytest.mark.ray, pytest.mark.proof]


def test_a_killed_process_loses_one_evaluation_and_one_that_raises_keeps_its_process(local_ray, tmp_path):
    tensors = dict(stored_tensors(SHIPPED_STUDENT))
    weights = WeightsVersion(3, tensors, fingerprint(tensors), update=0)
    spec = evaluation_of(tmp_path / "ray", "evaluation.every=1")
    said = []

    async def law():
        evaluation = TrainingEvaluation(ClusterConfig(start_timeout_s=120.0), said.append)
        evaluation.begin(spec)
        reference = local_ray.put(weights)
        seen = {}
        for update in range(4):
            if update == 1:
                (victim,) = own_processes("ray::EvaluationProcess")
                os.kill(victim, signal.SIGKILL)
            if update == 3:
                evaluation.begin(evaluation_of(tmp_path / "ray", "evaluation.every=1", "evaluation.metric=of_no_world"))
            before = evaluation.process
            evaluation.offer(update, reference)
            await evaluation.running
            seen[update] = evaluation.metrics()
            assert (evaluation.process is before) == (update != 1)
        evaluation.process.end()
        return seen

    seen = asyncio.run(asyncio.wait_for(law(), 300))
    inline = StudentEvaluator(evaluation_of(tmp_path / "inline", "evaluation.every=1"))
    assert seen[0] == inline(0, weights) | {"evaluation/skipped": 0, "evaluation/failed": 0}
    assert seen[1] == {"evaluation/skipped": 0, "evaluation/failed": 1}
    assert (seen[2]["evaluation/step"], seen[2]["evaluation/failed"]) == (2, 1)
    assert seen[3] == {"evaluation/skipped": 0, "evaluation/failed": 1}
    assert ["ActorDiedError" in said[0], "of_no_world" in said[1], len(said)] == [True, True, 2]
