"""Compare two videos of one prompt in both orders; a preference counts only where both orders agree."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.judging.inquiry import JudgedVideo, JudgeQuestion, ask_and_read
from evaluation.judging.judge_answers import FIRST, SECOND, TIE
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.rubric import VERDICT, load_rubric
from models.errors import ConfigError
from models.fingerprint import file_digest

_SWAPPED = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, None: None}


@dataclass(frozen=True)
class VideoPair:
    """Names two videos of one prompt."""

    name: str
    first: JudgedVideo
    second: JudgedVideo


@dataclass(frozen=True)
class PairVerdict:
    """Holds what the judge says of a pair."""

    better: str | None
    """FIRST, SECOND or TIE, of the pair as given; None where an order has no verdict."""
    orders: tuple[str | None, str | None]
    """Verdicts on the pair, shown as given and shown swapped; both name videos as given."""
    missing: tuple[str, ...]
    """Reasons for the missing ones."""


def judge_pairs(
    pairs: Sequence[VideoPair],
    config: JudgeConfig,
    transcript_path: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, PairVerdict]:
    """Ask for each pair in both orders; orders that disagree make a tie.

    Raises ConfigError as `judge_videos`, and for a pair of two prompts.
    """
    rubric = load_rubric(config.pair_rubric, VERDICT, "judge.pair_rubric")
    questions: list[JudgeQuestion] = []
    verdicts: dict[str, PairVerdict] = {}
    for name, count in Counter(pair.name for pair in pairs).items():
        if count > 1:
            raise ConfigError("pairs", name, f"{count} pairs have this name", "rename them")
    for pair in pairs:
        if pair.first.prompt != pair.second.prompt:
            raise ConfigError("pairs", pair.name, "its videos have different prompts", "pair videos of one prompt")
        videos = pair.first, pair.second
        try:
            digests = file_digest(pair.first.path), file_digest(pair.second.path)
        except OSError as error:
            reason = f"{Path(error.filename).name} cannot be read ({error.strerror})"
            verdicts[pair.name] = PairVerdict(None, (None, None), (reason, reason))
            continue
        seed = pair_seed(digests, config.seed)
        questions += [
            JudgeQuestion(videos, digests, rubric, config, 0, seed),
            JudgeQuestion(videos[::-1], digests[::-1], rubric, config, 0, seed),
        ]
    answers = ask_and_read(questions, config, transcript_path, progress)
    pairs_asked = [pair for pair in pairs if pair.name not in verdicts]
    for pair, given, swapped in zip(pairs_asked, answers[::2], answers[1::2], strict=True):
        orders = given.value, _SWAPPED[swapped.value]
        missing = tuple(answer.missing for answer in (given, swapped) if answer.missing is not None)
        verdicts[pair.name] = PairVerdict(both_orders(*orders), orders, missing)
    return {pair.name: verdicts[pair.name] for pair in pairs}


def both_orders(given: str | None, swapped: str | None) -> str | None:
    """Combine the verdicts of both orders: theirs where they agree, otherwise a tie; None where one is missing."""
    if given is None or swapped is None:
        return None
    return given if given == swapped else TIE


def pair_seed(digests: Sequence[str], seed: int) -> int:
    """Derive the seed of a pair from its videos, the same for either order."""
    text = f"{seed} {' '.join(sorted(digests))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
