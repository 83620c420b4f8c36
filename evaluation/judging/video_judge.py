"""Judge videos by their exposure, one score from 0 to 5 each, as the paper does; Visual Stability is the mean x 20."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.judging.inquiry import JudgedVideo, JudgeQuestion, ask_and_read
from evaluation.judging.judge_answers import HIGHEST
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.rubric import SCORE, load_rubric
from models.errors import ConfigError
from models.fingerprint import file_digest

_POINT = 100 / HIGHEST
"""Visual Stability of one point of a score."""


@dataclass(frozen=True)
class VideoVerdict:
    """Holds what the judge says of one video."""

    score: float | None
    """Visual Stability from 0 to 100, over the repeats that have a score; None where none has."""
    repeats: tuple[int | None, ...]
    """Scores from 0 to 5; None where one is missing."""
    missing: tuple[str, ...]
    """Reasons for the missing ones."""


def visual_stability(scores: Sequence[int | None]) -> float | None:
    """Compute mean x 20 over the scores that are there; None where there are none (Self-Forcing++, appendix)."""
    present = [score for score in scores if score is not None]
    return _POINT * sum(present) / len(present) if present else None


def judge_videos(
    videos: Sequence[JudgedVideo],
    config: JudgeConfig,
    transcript_path: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, VideoVerdict]:
    """Judge each video `config.repeats` times; `progress` receives a line after each answer.

    What a transcript answers is not asked again. Raises ConfigError for unusable keys, two videos of one name, or a
    transcript file that cannot be used; whatever happens at the endpoint leaves scores missing.
    """
    for name, count in Counter(video.name for video in videos).items():
        if count > 1:
            raise ConfigError("videos", name, f"{count} videos have this name", "rename them")
    rubric = load_rubric(config.rubric, SCORE, "judge.rubric")
    questions: list[JudgeQuestion] = []
    verdicts: dict[str, VideoVerdict] = {}
    for video in videos:
        try:
            digests = (file_digest(video.path),)
        except OSError as error:
            reason = f"{video.path.name} cannot be read ({error.strerror})"
            verdicts[video.name] = VideoVerdict(None, (None,) * config.repeats, (reason,) * config.repeats)
            continue
        questions += [
            JudgeQuestion((video,), digests, rubric, config, repeat, config.seed + repeat)
            for repeat in range(config.repeats)
        ]
    answers = ask_and_read(questions, config, transcript_path, progress)
    for first in range(0, len(questions), config.repeats):
        own = answers[first : first + config.repeats]
        scores = tuple(answer.value for answer in own)
        missing = tuple(answer.missing for answer in own if answer.missing is not None)
        verdicts[questions[first].videos[0].name] = VideoVerdict(visual_stability(scores), scores, missing)
    return {video.name: verdicts[video.name] for video in videos}
