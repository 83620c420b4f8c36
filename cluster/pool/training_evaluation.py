"""Evaluate students on Ray while they train: one process beside the pool, which never holds the learner up."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cluster.config.cluster_config import ClusterConfig
from cluster.evaluations.best_student import ending
from cluster.planning import placement
from cluster.runs.stage_spec import EvaluationSpec
from cluster.weights.version import WeightsVersion

if TYPE_CHECKING:
    from cluster.evaluations.student_evaluation import StudentEvaluator


class EvaluationLost(Exception):
    """Reports that the evaluation process died; the message gives the cause."""


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class EvaluationProcess:
    """Evaluates versions of the student in a process of its own."""

    def __init__(self, cluster: ClusterConfig):
        torch.set_num_threads(cluster.threads)
        self.device = "cuda" if cluster.actor_gpus else "cpu"
        self.evaluator: StudentEvaluator | None = None

    def evaluate(self, spec: EvaluationSpec, step: int, weights: WeightsVersion) -> dict[str, float]:
        """Evaluate a version, with the networks of the last call where the stage is the same."""
        # Only here: OpenCV, SciPy and PyAV, which the coordinator imports this module without.
        from cluster.evaluations.student_evaluation import StudentEvaluator

        if self.evaluator is None or self.evaluator.spec != spec:
            self.evaluator = StudentEvaluator(spec, self.device)
        return self.evaluator(step, weights)


class RayEvaluation:
    """Calls one evaluation process, from when it is requested until it is killed."""

    def __init__(self, cluster: ClusterConfig):
        options = placement.options(placement.evaluation(cluster))
        self.actor = EvaluationProcess.options(**options).remote(cluster)

    async def ready(self) -> None:
        """Wait until the process has a node and has started. Raises EvaluationLost."""
        await self._answer(self.actor.__ray_ready__.remote())

    async def evaluate(self, spec: EvaluationSpec, step: int, reference: Awaitable[WeightsVersion]) -> dict[str, float]:
        """Evaluate a version, which the process reads in place from its node's store.

        Raises EvaluationLost, or any exception of the work itself.
        """
        return await self._answer(self.actor.evaluate.remote(spec, step, reference))

    def end(self) -> None:
        """Kill the process."""
        ray.kill(self.actor)

    async def _answer(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise EvaluationLost(type(error).__name__) from error


class TrainingEvaluation:
    """Evaluates every n-th version, one at a time; versions that come meanwhile are skipped. For one event loop."""

    def __init__(
        self,
        cluster: ClusterConfig,
        say: Callable[[str], None],
        start: Callable[[ClusterConfig], RayEvaluation] = RayEvaluation,
    ):
        """`say` takes a line for the terminal; `start` requests a process."""
        self.cluster, self.say, self.start = cluster, say, start
        self.spec: EvaluationSpec | None = None
        self.process: RayEvaluation | None = None
        self.running: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()
        self.result: dict[str, float] = {}
        """The last evaluation, until it is logged."""

    def begin(self, spec: EvaluationSpec | None) -> None:
        """Evaluate another stage from now on; `spec=None`: none. An evaluation that runs still writes its files."""
        self.spec, self.result, self.counts = spec, {}, Counter()
        if spec is not None and self.process is None:
            self.process = self.start(self.cluster)

    def offer(self, update: int, reference: Awaitable[WeightsVersion]) -> None:
        """Evaluate the version after `update` updates if it is due and the process is idle. Never waits."""
        if self.spec is None or update % self.spec.keys.every:
            return
        if self.running is not None and not self.running.done():
            self.counts["skipped"] += 1
            return
        self.running = asyncio.create_task(self._evaluate(self.spec, update, reference))

    def metrics(self) -> dict[str, float]:
        """Return the counts of the stage, and once the result of each evaluation, by which the learner may end it."""
        if self.spec is None:
            return {}
        result, self.result = self.result, {}
        if result and (line := ending(self.spec, result)) is not None:
            self.say(line)
        return {f"evaluation/{name}": self.counts[name] for name in ("skipped", "failed")} | result

    async def _evaluate(self, spec: EvaluationSpec, update: int, reference: Awaitable[WeightsVersion]) -> None:
        process, lost, limit = self.process, True, "cluster.start_timeout_s"
        try:
            async with asyncio.timeout(self.cluster.start_timeout_s):
                await process.ready()
            limit = "evaluation.timeout_s"
            async with asyncio.timeout(spec.keys.timeout_s):
                result = await process.evaluate(spec, update, reference)
        except TimeoutError:
            reason = f"longer than {limit}"
        except EvaluationLost as error:
            reason = f"its process died: {error}"
        except Exception as error:  # of the work itself, such as a full disk: training goes on, and so does the process
            reason, lost = f"{type(error).__name__}: {error}", False
        else:
            if spec is self.spec:  # else it is of the stage before, or of a learner that was lost
                self.result = result
            return
        self.say(f"the evaluation of stage {spec.stage} after {update} updates failed ({reason}); training continues")
        if spec is self.spec:
            self.counts["failed"] += 1
        if lost:
            process.end()
            self.process = self.start(self.cluster)
