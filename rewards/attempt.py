"""Call a reward that may raise, hang or return nonsense: its scores, or the reason for having none."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.reward import Clip, ExplainsMissing, Reward

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """Holds the result of one call of a reward on n clips."""

    scores: Tensor
    """[n] float64; a missing score is NaN, never 0."""
    failure: str | None = None
    running: threading.Thread | None = None
    """Thread in which the reward still runs: only the end of the process stops it."""


class BadAnswer(ValueError):
    """Rejects the answer of a reward that is not one score per clip."""


def attempt(name: str, reward: Reward, clips: Sequence[Clip], timeout_s: float) -> Attempt:
    """Call `reward` on `clips` and wait for at most `timeout_s`. Logs a failure, and never raises for it."""
    answers, errors = [], []

    def ask() -> None:
        try:
            # Gradients are switched off per thread.
            with torch.no_grad():
                answer = reward(clips)
            if not isinstance(answer, Tensor):
                raise BadAnswer(f"answered {type(answer).__name__}; a reward answers a tensor [{len(clips)}]")
            if answer.shape != (len(clips),):
                problem = f"answered {list(answer.shape)} for {len(clips)} clips"
                raise BadAnswer(f"{problem}; a reward answers one score per clip")
            if answer.is_complex():
                raise BadAnswer(f"answered {answer.dtype}; scores are real")
            numbers = answer.detach().double().cpu()
            answers.append(numbers.where(numbers.isfinite(), torch.nan))
        except BaseException as error:  # a plug-in may raise anything, SystemExit too; the run continues
            errors.append(error)

    thread = threading.Thread(target=ask, name=f"reward {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    hung = thread.is_alive()  # read once: it may end at any moment
    scores = torch.full((len(clips),), torch.nan, dtype=torch.float64)
    if hung:
        failure = f"no answer within reward.timeout_s={timeout_s:g} s"
    elif errors:
        reason = " ".join(str(errors[0]).split())
        failure = reason if isinstance(errors[0], BadAnswer) else f"{type(errors[0]).__name__}: {reason}"
    else:
        scores = answers[0]
        missing = int(scores.isnan().sum())
        why = reward.unscored if isinstance(reward, ExplainsMissing) else None
        failure = f"no score for {missing} of {len(clips)} clips{f': {why}' if why else ''}" if missing else None
    if failure is not None:
        _log.warning("reward %s: %s", name, failure)
    return Attempt(scores, failure, thread if hung else None)
