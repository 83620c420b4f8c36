"""Evaluations during training without a training run: a spec of the tiny world, and processes that only pretend."""

import asyncio

import settings
from cluster.runs.stage_spec import EvaluationSpec, stage_spec
from tests.fakes.commands import replaced


def evaluation_of(run_dir, *arguments) -> EvaluationSpec:
    """One video of 36 frames, longer than the two seconds that curves compare with; `arguments` go before these."""
    keys = ["evaluation.every=2", "evaluation.prompts=1", "evaluation.videos=1", "evaluation.frames=36"]
    config = settings.load(["preset=smoke", f"run_dir={run_dir}", *replaced(keys, *arguments)])
    return stage_spec("dmd", config).evaluation


class PretendedProcess:
    """Answers when the test says so: with numbers, with an exception, or never."""

    def __init__(self):
        self.asked, self.ended = [], False
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()

    async def ready(self):
        await asyncio.sleep(0)

    async def evaluate(self, spec, step, reference):
        self.asked.append((spec.stage, step, reference))
        try:
            return await self.answer
        finally:
            self.answer = asyncio.get_running_loop().create_future()

    def end(self):
        self.ended = True


def result(step, value, since_best=0):
    """What an evaluation returns, as far as training looks at it."""
    return {
        "evaluation/luma.worst": value, "evaluation/step": step, "evaluation/best": 0.1, "evaluation/best_step": 2,
        "evaluation/since_best": since_best,
    }  # fmt: skip
