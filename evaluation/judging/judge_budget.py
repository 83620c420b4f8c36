"""Limits of requests and of money: a request that could exceed one is not made."""

import math
from collections.abc import Iterable

from evaluation.judging.frame_pictures import FramePicture
from evaluation.judging.judge_answers import JudgeAnswer
from evaluation.judging.judge_config import JudgeConfig

_PIXELS_PER_TOKEN, _TOKENS_PER_PICTURE, _CHARACTERS_PER_TOKEN = 500, 100, 3
"""More tokens than today's vision models take, which is 28 x 28 pixels a token or 512 x 512 for 170."""


class BudgetSpent(Exception):
    """A request was not made: it could exceed judge.most_calls or judge.most_dollars."""


def estimated_tokens(text: str, pictures: Iterable[FramePicture]) -> int:
    """Estimate the input tokens of a request, rather too many."""
    seen = (_TOKENS_PER_PICTURE + picture.pixels // _PIXELS_PER_TOKEN for picture in pictures)
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN) + sum(seen)


class JudgeBudget:
    """Counts requests and dollars against their limits; dollars of a request in flight are reserved."""

    def __init__(self, config: JudgeConfig, calls: int, dollars: float):
        """Begin with what the transcripts have cost."""
        self._config = config
        self.calls, self.dollars = calls, dollars
        self._reserved = 0.0
        self._measured: float | None = None
        """Largest ratio of input tokens to estimated ones so far."""

    def reserve(self, tokens: int) -> float:
        """Reserve the dollars of a request of `tokens` estimated input tokens and the longest answer.

        Raises BudgetSpent.
        """
        ratio = 1.0 if self._measured is None else self._measured
        cost = self._config.dollars(math.ceil(ratio * tokens), self._config.most_output_tokens) or 0.0
        limit = self._config.most_dollars
        if limit is not None and self.dollars + self._reserved + cost > limit:
            raise BudgetSpent(
                f"another request could exceed judge.most_dollars={limit:g}: {self.dollars:.4g} are spent, "
                f"{self._reserved:.4g} reserved, it may cost {cost:.4g}"
            )
        self._reserved += cost
        return cost

    def count_call(self) -> None:
        """Count a try of a request before it is made. Raises BudgetSpent."""
        limit = self._config.most_calls
        if limit is not None and self.calls >= limit:
            raise BudgetSpent(f"judge.most_calls={limit} are made")
        self.calls += 1

    def release(self, reserved: float) -> None:
        """Give back what `reserve` returned, once the request has ended."""
        self._reserved -= reserved

    def charge(self, answer: JudgeAnswer, tokens: int, reserved: float) -> float | None:
        """Count an answer's dollars and return them; None without prices.

        An answer without usage costs what was reserved for it.
        """
        if self._config.dollars(0, 0) is None:
            return None
        if answer.input_tokens is None:
            cost = reserved
        else:
            self._measured = max(self._measured or 0.0, answer.input_tokens / max(tokens, 1))
            cost = self._config.dollars(answer.input_tokens, answer.output_tokens)
        self.dollars += cost
        return cost
