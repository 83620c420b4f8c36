"""Evaluations beside the pool: nobody waits for them, and none that hangs, dies or raises ends the training."""

import asyncio
from dataclasses import replace

import pytest

from cluster.config.cluster_config import ClusterConfig
from cluster.pool.training_evaluation import EvaluationLost, TrainingEvaluation
from tests.fakes.evaluated import PretendedProcess, evaluation_of, result
from tests.fakes.small_runs import run


class Beside:
    """An evaluation with pretended processes, every one that was started, and what it said."""

    def __init__(self, run_dir, *arguments, start_timeout_s=30.0):
        self.started, self.said = [], []
        self.spec = evaluation_of(run_dir, *arguments)
        cluster = ClusterConfig(start_timeout_s=start_timeout_s)
        self.evaluation = TrainingEvaluation(cluster, self.said.append, self._start)
        self.evaluation.begin(self.spec)

    def _start(self, cluster):
        self.started.append(PretendedProcess())
        return self.started[-1]

    async def asked(self, count, process=-1):
        """Wait until the last process has got `count` requests."""
        while len(self.started[process].asked) < count:
            await asyncio.sleep(0)

    async def over(self):
        await self.evaluation.running


def test_only_every_nth_version_is_evaluated_and_its_numbers_come_once(tmp_path):
    async def law():
        beside = Beside(tmp_path)
        for update in (0, 1, 2, 3, 4):
            beside.evaluation.offer(update, f"version {update}")
            if update % 2 == 0:
                await beside.asked(1 + update // 2)
                assert beside.evaluation.metrics() == {"evaluation/skipped": 0, "evaluation/failed": 0}
                beside.started[0].answer.set_result(result(update, 0.5))
                await beside.over()
                assert beside.evaluation.metrics()["evaluation/step"] == update
            assert "evaluation/step" not in beside.evaluation.metrics()
        assert beside.started[0].asked == [("dmd", update, f"version {update}") for update in (0, 2, 4)]
        assert len(beside.started) == 1 and not beside.said

    run(law())


def test_versions_that_come_while_one_is_evaluated_are_skipped_and_counted(tmp_path):
    async def law():
        beside = Beside(tmp_path)
        for update in range(7):
            beside.evaluation.offer(update, update)
        await beside.asked(1)
        beside.started[0].answer.set_result(result(0, 0.5))
        await beside.over()
        assert beside.evaluation.metrics()["evaluation/skipped"] == 3
        beside.evaluation.offer(8, 8)
        await beside.asked(2)
        assert [step for _, step, _ in beside.started[0].asked] == [0, 8]

    run(law())


@pytest.mark.parametrize(
    ("error", "replaced"), [(EvaluationLost("ActorDiedError"), True), (OSError(28, "No space left on device"), False)]
)
def test_an_evaluation_that_dies_or_raises_is_counted_and_the_next_one_runs(tmp_path, error, replaced):
    async def law():
        beside = Beside(tmp_path)
        beside.evaluation.offer(0, 0)
        await beside.asked(1)
        beside.started[0].answer.set_exception(error)
        await beside.over()
        assert beside.evaluation.metrics() == {"evaluation/skipped": 0, "evaluation/failed": 1}
        assert beside.started[0].ended == replaced and len(beside.started) == 1 + replaced
        assert len(beside.said) == 1 and str(error) in beside.said[0]
        beside.evaluation.offer(2, 2)
        await beside.asked(1 if replaced else 2)
        beside.started[-1].answer.set_result(result(2, 0.5))
        await beside.over()
        assert beside.evaluation.metrics()["evaluation/step"] == 2

    run(law())


@pytest.mark.parametrize("key", ["evaluation.timeout_s", "cluster.start_timeout_s"])
def test_an_evaluation_that_hangs_or_never_starts_is_counted_and_its_process_replaced(tmp_path, key):
    async def law():
        beside = Beside(tmp_path, "evaluation.timeout_s=0.01", start_timeout_s=0.01)
        if key == "cluster.start_timeout_s":
            beside.started[0].ready = asyncio.Event().wait
        beside.evaluation.offer(0, 0)
        await beside.over()
        assert beside.evaluation.metrics()["evaluation/failed"] == 1
        assert [process.ended for process in beside.started] == [True, False]
        assert len(beside.said) == 1 and key in beside.said[0]

    run(law())


def test_the_end_by_patience_is_told_with_the_numbers_that_the_learner_gets(tmp_path):
    async def law():
        beside = Beside(tmp_path, "evaluation.patience=2")
        for update, since_best in ((2, 0), (4, 1), (6, 2)):
            beside.evaluation.offer(update, update)
            await beside.asked(update // 2)
            beside.started[0].answer.set_result(result(update, 0.5, since_best))
            await beside.over()
            assert not beside.said
            assert beside.evaluation.metrics()["evaluation/since_best"] == since_best
        assert len(beside.said) == 1 and "evaluation.patience=2" in beside.said[0]

    run(law())


def test_numbers_of_the_stage_before_are_not_logged_in_the_next(tmp_path):
    async def law():
        beside = Beside(tmp_path)
        beside.evaluation.offer(4, 4)
        await beside.asked(1)
        beside.evaluation.begin(replace(beside.spec, stage="grpo"))
        beside.evaluation.offer(0, 0)
        beside.started[0].answer.set_result(result(4, 0.5))
        await beside.over()
        assert beside.evaluation.metrics() == {"evaluation/skipped": 1, "evaluation/failed": 0}
        beside.evaluation.begin(None)
        beside.evaluation.offer(2, 2)
        assert beside.evaluation.metrics() == {} and len(beside.started[0].asked) == len(beside.started) == 1

    run(law())
