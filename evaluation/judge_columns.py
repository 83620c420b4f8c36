"""Add the judge's columns to the results of videos, and its agreement with itself and with people."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.judging.agreement import human_agreement, read_ratings, self_agreement
from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.method_pairs import compare_methods, method_pairs
from evaluation.judging.rubric import SCORE, VERDICT, load_rubric
from evaluation.judging.video_judge import VideoVerdict, judge_videos
from evaluation.metrics import Metric
from evaluation.video_tasks import VideoTask
from models.user_paths import user_path

VISUAL_STABILITY, WIN_RATE = "visual_stability", "win_rate"


def judge_metrics() -> dict[str, Metric]:
    """Describe the judge's columns."""
    return {
        VISUAL_STABILITY: Metric("Visual Stability (judge)", "mean score of 0 to 5, times 20", "high"),
        WIN_RATE: Metric("win rate (judge, pairs)", "share of pairs of one prompt, a tie counts half", "high"),
    }


def check_judge(config: JudgeConfig) -> None:
    """Check rubrics and ratings, before the first video is measured or a request is paid. Raises ConfigError."""
    if config.url is None:
        return
    load_rubric(config.rubric, SCORE, "judge.rubric")
    if config.pairwise:
        load_rubric(config.pair_rubric, VERDICT, "judge.pair_rubric")
    if config.ratings is not None:
        read_ratings(config.ratings)


def judge_columns(
    tasks: Sequence[VideoTask], config: JudgeConfig, out: Path
) -> tuple[dict[VideoTask, dict[str, float | None]], dict[str, Any]]:
    """Judge the films among `tasks`, with `judge.pairwise` also in pairs; return columns, and notes by their name.

    A video of a .safetensors file has no value. Raises ConfigError for keys and files that cannot be used.
    """
    transcripts = (
        out / "judge.jsonl" if config.transcripts is None else user_path(config.transcripts, "judge.transcripts")
    )
    ratings = None if config.ratings is None else read_ratings(config.ratings)
    films = {f"{task.method}/{task.name}": task for task in tasks if task.index is None}
    videos = [JudgedVideo(name, task.path, task.prompt or "") for name, task in films.items()]
    progress = partial(print, file=sys.stderr)
    if len(films) < len(tasks):
        progress(f"judge: {len(tasks) - len(films)} videos of .safetensors files are left out: it sees films only")
    verdicts = judge_videos(videos, config, transcripts, progress)
    columns: dict[VideoTask, dict[str, float | None]] = {task: {VISUAL_STABILITY: None} for task in tasks}
    for name, verdict in verdicts.items():
        columns[films[name]][VISUAL_STABILITY] = verdict.score
    notes = {"judge": {"model": config.model, "rubric": config.rubric} | _agreements(verdicts, ratings)}
    if reasons := notes["judge"]["reasons"]:
        progress(f"judge: {notes['judge']['missing']} answers are missing: {'; '.join(reasons[:3])}")
    if config.pairwise:
        points, pairs = compare_methods(method_pairs(tasks), config, transcripts, progress)
        notes |= {"pairwise": pairs}
        notes["judge"]["pairs"] = {"rubric": config.pair_rubric, "reasons": pairs["reasons"]}
        for task in tasks:
            columns[task][WIN_RATE] = points.get(task)
    return columns, notes


def _agreements(verdicts: dict[str, VideoVerdict], ratings: dict[str, float] | None) -> dict[str, Any]:
    reasons = sorted({reason for verdict in verdicts.values() for reason in verdict.missing})
    report: dict[str, Any] = {"missing": sum(len(one.missing) for one in verdicts.values()), "reasons": reasons}
    if any(len(verdict.repeats) > 1 for verdict in verdicts.values()):
        report["self_agreement"] = self_agreement(verdicts)._asdict()
    if ratings is not None:
        report["people"] = {name: one._asdict() for name, one in human_agreement(verdicts, ratings).items()}
    return report
