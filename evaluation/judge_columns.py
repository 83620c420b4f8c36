"""Add the judge's Visual Stability to the results of videos, and its agreement with itself and with people."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.judging.agreement import human_agreement, read_ratings, self_agreement
from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.video_judge import VideoVerdict, judge_videos
from evaluation.summaries import Metric
from evaluation.video_tasks import VideoTask
from models.user_paths import user_path

VISUAL_STABILITY = "visual_stability"


def judge_metrics() -> dict[str, Metric]:
    """Describe the judge's column."""
    return {VISUAL_STABILITY: Metric("Visual Stability (judge)", "mean score of 0 to 5, times 20", "high")}


def judge_columns(
    tasks: Sequence[VideoTask], config: JudgeConfig, out: Path
) -> tuple[dict[VideoTask, float | None], dict[str, Any]]:
    """Judge the films among `tasks`; return their Visual Stability and what evaluation.json says of the judge.

    A video of a .safetensors file has none. Raises ConfigError for keys and files that cannot be used.
    """
    transcripts = (
        out / "judge.jsonl" if config.transcripts is None else user_path(config.transcripts, "judge.transcripts")
    )
    ratings = None if config.ratings is None else read_ratings(config.ratings)
    films = {f"{task.method}/{task.name}": task for task in tasks if task.index is None}
    videos = [JudgedVideo(name, task.path, task.prompt or "") for name, task in films.items()]
    verdicts = judge_videos(videos, config, transcripts, lambda line: print(line, file=sys.stderr))
    scores = dict.fromkeys(tasks) | {films[name]: verdict.score for name, verdict in verdicts.items()}
    return scores, {"model": config.model, "rubric": config.rubric} | _agreements(verdicts, ratings)


def _agreements(verdicts: dict[str, VideoVerdict], ratings: dict[str, float] | None) -> dict[str, Any]:
    reasons = sorted({reason for verdict in verdicts.values() for reason in verdict.missing})
    report: dict[str, Any] = {"missing": sum(len(one.missing) for one in verdicts.values()), "reasons": reasons}
    if any(len(verdict.repeats) > 1 for verdict in verdicts.values()):
        report["self_agreement"] = self_agreement(verdicts)._asdict()
    if ratings is not None:
        report["people"] = {name: one._asdict() for name, one in human_agreement(verdicts, ratings).items()}
    return report
