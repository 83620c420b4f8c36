"""One call of a reward that may raise, hang or answer nonsense: what it scored, or why it did not."""

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
    """What came of asking a reward about n clips."""

    scores: Tensor
    """[n] float64; NaN is missing, which is never 0."""
    failure: str | None = None
    running: threading.Thread | None = None
    """Where the reward still runs: nobody can stop it but the end of the process."""

    @property
    def hung(self) -> bool:
        return self.running is not None


class BadAnswer(ValueError):
    """A reward answered, and not with a score per clip."""


def attempt(name: str, reward: Reward, clips: Sequence[Clip], timeout_s: float) -> Attempt:
    """Ask `reward` about `clips` and wait for at most `timeout_s`. Logs what fails, and never raises for it."""
    answers, errors = [], []

    def ask() -> None:
        try:
            # Whether gradients are recorded is a matter of the thread.
            with torch.no_grad():
                answers.append(_checked(reward(clips), len(clips)))
        except BaseException as error:  # a plug-in may raise anything, SystemExit too; the run goes on without it
            errors.append(error)

    thread = threading.Thread(target=ask, name=f"reward {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    hung = thread.is_alive()  # asked once: it may end at any moment
    scores = torch.full((len(clips),), torch.nan, dtype=torch.float64)
    if hung:
        failure = f"no answer within reward.timeout_s={timeout_s:g} s"
    elif errors:
        said = " ".join(str(errors[0]).split())
        failure = said if isinstance(errors[0], BadAnswer) else f"{type(errors[0]).__name__}: {said}"
    else:
        scores = answers[0]
        missing = int(scores.isnan().sum())
        why = reward.unscored if isinstance(reward, ExplainsMissing) else None
        failure = f"no score for {missing} of {len(clips)} clips{f': {why}' if why else ''}" if missing else None
    if failure is not None:
        _log.warning("reward %s: %s", name, failure)
    return Attempt(scores, failure, thread if hung else None)


def _checked(answer: object, clips: int) -> Tensor:
    """[clips] float64 on the CPU, NaN for what is not finite. Raises BadAnswer; whatever a plug-in gives back."""
    if not isinstance(answer, Tensor):
        raise BadAnswer(f"answered {type(answer).__name__}; a reward answers a tensor [{clips}]")
    if answer.shape != (clips,):
        raise BadAnswer(f"answered {list(answer.shape)} for {clips} clips; a reward answers one score per clip")
    if answer.is_complex():
        raise BadAnswer(f"answered {answer.dtype}; scores are real")
    given = answer.detach().double().cpu()
    return given.where(given.isfinite(), torch.nan)
