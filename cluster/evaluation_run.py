"""Generate the videos of students and judge those of all methods, in this process or on Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from actors.generation.generation_config import GenerationConfig
from actors.generation.video_folder import generate_whole, missing_videos, plan_folder
from actors.prompts import prompt_texts
from cluster.video_jobs import run_each
from evaluation.benchmark_columns.benchmark_config import check_vbench
from evaluation.benchmark_columns.benchmark_metrics import benchmark_metrics
from evaluation.benchmark_columns.embedding_alignment import embedding_columns, load_encoders
from evaluation.benchmark_columns.moviegen_prompts import moviegen_prompts, prompt_list
from evaluation.benchmark_columns.vbench_columns import vbench_columns
from evaluation.evaluation_config import EvaluationConfig, methods_of
from evaluation.judge_columns import check_judge, judge_columns, judge_metrics
from evaluation.judging.method_pairs import method_pairs
from evaluation.metrics import Metric, metrics
from evaluation.stability.real_band import read_band
from evaluation.video_evaluation import evaluate_video
from evaluation.video_tasks import Skipped, VideoTask, list_videos
from models.atomic_files import write_atomic
from models.errors import ConfigError
from models.fingerprint import file_digest
from models.user_paths import user_path
from rewards.learned.image_encoders import text_encoder


def generate_students(
    generation: Mapping[str, GenerationConfig], config: EvaluationConfig
) -> tuple[dict[str, str], list[Skipped]]:
    """Generate the missing videos of every student into out/videos; return the folders by method, and failures.

    All keys of all methods are checked before the first video starts. Raises ConfigError and CannotStart.
    """
    out = user_path(config.out, "out")
    if config.first_prompts is not None and config.prompts is not None:
        first = moviegen_prompts(user_path(config.prompts, "prompts"), config.first_prompts).texts
        write_atomic(out / "prompts.txt", "".join(f"{text}\n" for text in first).encode())
        generation = {name: replace(keys, prompts=str(out / "prompts.txt")) for name, keys in generation.items()}
    folders = {method: out / "videos" / method for method in generation}
    planned = [plan_folder(keys, folders[method]) for method, keys in generation.items()]
    missing = [video for videos in planned for video in missing_videos(videos)]
    failures = [
        Skipped(Path(video.out).parent.name, Path(video.out).name, str(outcome))
        for video, outcome in _run(config)(generate_whole, missing, "generate")
        if isinstance(outcome, Exception)
    ]
    return {method: str(folder) for method, folder in folders.items()}, failures


def judge_methods(
    config: EvaluationConfig, students: Mapping[str, str]
) -> tuple[dict[VideoTask, dict[str, Any]], list[Skipped]]:
    """Judge the videos of all methods; return results in the order of methods and names, and the skipped files.

    `students` are folders of generated videos, by method. Raises ConfigError and CannotStart.
    """
    prompts: Sequence[str] | None = None
    if config.prompts is not None and not students:
        prompts = list(prompt_texts(user_path(config.prompts, "prompts")))
    methods = methods_of("videos", config.videos) | students
    tasks, skipped = list_videos(methods, prompts, user_path(config.out, "out"), config.tensor_fps, config.horizons)
    if config.judge.pairwise and not method_pairs(tasks):
        raise ConfigError(
            "judge.pairwise", True, "no two methods have a film of the same prompt or, without prompts, of one name",
            "write prompts=FILE, or the same text in NAME.txt beside both films",
        )  # fmt: skip
    tasks = [replace(task, real_videos=config.real_videos) for task in tasks]
    results = {}
    for task, outcome in _run(config)(evaluate_video, tasks, "judge"):
        if isinstance(outcome, Exception):
            skipped.append(Skipped(task.method, task.path.name, str(outcome)))
        else:
            results[task] = outcome
    return {task: results[task] for task in tasks if task in results}, skipped


def check_columns(config: EvaluationConfig) -> None:
    """Check keys and files of judge, encoders, VBench and real videos, before anything starts. Raises ConfigError."""
    check_judge(config.judge)
    check_vbench(config.vbench)
    if config.real_videos is not None:
        read_band(config.real_videos)
    load_encoders(config.embeddings)
    if config.vbench.clip is not None:
        text_encoder(config.vbench.clip, "vbench.clip", config.vbench.device)


def add_columns(
    config: EvaluationConfig, results: Mapping[VideoTask, dict[str, Any]]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Add the columns of encoders, VBench and judge to `results`, in place, where their keys are set.

    Return the description of all metrics, and notes for evaluation.json. Raises ConfigError.
    """
    described, notes, out = metrics() | benchmark_metrics(), {}, user_path(config.out, "out")
    if config.prompts is not None:
        path = user_path(config.prompts, "prompts")
        digest = file_digest(path)
        notes["prompts"] = {"file": path.name, "sha256": digest, "source": prompt_list(digest)}
    if config.embeddings.clip is not None or config.embeddings.identity is not None:
        for task, result in results.items():
            result["metrics"] |= embedding_columns(task, config.embeddings)
    for task, columns in vbench_columns(list(results), config.vbench, out).items():
        results[task]["metrics"] |= columns
    if config.judge.url is not None:
        columns, judged = judge_columns(list(results), config.judge, out)
        described, notes = judge_metrics() | described, notes | judged
        for task, values in columns.items():
            results[task]["metrics"] |= values
    return described, notes


def _run(config: EvaluationConfig) -> partial:
    return partial(
        run_each, workers=config.workers, gpus=config.worker_gpus, address=config.address, timeout_s=config.timeout_s
    )
