"""Judge long videos: curves of every second, where in time each method breaks, one table and one report.

python evaluate.py videos=FOLDER [key=value ...]

Reads the videos of any tool (mp4, mov, mkv, webm, avi, gif, or safetensors), several folders side by side. Writes rows
per second, evaluation.json and report.html into out (runs/evaluation). The same command again continues where it
stopped and judges only what is new. Exit status 1: some videos could not be judged; they are listed.
  python evaluate.py videos=runs/videos
  python evaluate.py 'videos=[ours=runs/a,theirs=runs/b]' workers=2 out=runs/compare
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import settings
from evaluation.evaluation_config import EvaluationConfig, methods_of

if TYPE_CHECKING:
    from cluster.runs.display import Display
    from evaluation.video_tasks import VideoTask

TABLE = ("luma.worst", "contrast.worst", "saturation.worst", "clipped.worst", "sharpness.worst", "motion.worst",
         "luma.ends", "luma.outside", "dynamic_degree", "no_repeat", "still", "cuts")  # fmt: skip
"""Metrics in the terminal's table; the report has all of them."""


def judge_all(config: EvaluationConfig, tasks: "Sequence[VideoTask]") -> "Iterator[tuple[VideoTask, Any]]":
    """Yield every video with its result, or the exception that says why there is none."""
    from cluster.runs.display import Display
    from evaluation.video_evaluation import evaluate_video
    from evaluation.video_stream import UnreadableVideo

    with Display() as display:
        if config.workers > 1:
            from cluster.bootstrap.ray_environment import settle_environment
            from cluster.config.cluster_config import ClusterConfig

            settle_environment(ClusterConfig(address=config.address))
            from cluster.pool.video_workers import map_on_ray  # only now: ray reads its environment when imported

            outcomes = map_on_ray(evaluate_video, tasks, config.workers, config.address, config.timeout_s)
            for done, outcome in enumerate(outcomes, 1):
                display("videos", done, len(tasks), outcome[0].name)
                yield outcome
            return
        for done, task in enumerate(tasks, 1):
            try:
                yield task, evaluate_video(task, partial(_show_seconds, display, task))
            except UnreadableVideo as error:
                yield task, error
            display("videos", done, len(tasks), task.name)


def _show_seconds(display: "Display", task: "VideoTask", seconds: float, total_s: float) -> None:
    display(task.name, int(seconds), max(int(total_s), int(seconds)), "seconds")


def main(config: EvaluationConfig) -> int:
    """Judge the videos and write the table. Returns the exit status."""
    from actors.prompts import prompt_texts
    from cluster.runs.provenance import commit
    from evaluation.evaluation_table import evaluation_of, evaluation_text, write_evaluation
    from evaluation.summaries import metrics
    from evaluation.video_tasks import Skipped, list_videos
    from models.user_paths import user_path

    out = user_path(config.out, "out")
    prompts = None if config.prompts is None else list(prompt_texts(user_path(config.prompts, "prompts")))
    tasks, skipped = list_videos(methods_of(config.videos), prompts, out, config.fps)
    results = {}
    for task, outcome in judge_all(config, tasks):
        if isinstance(outcome, Exception):
            skipped.append(Skipped(task.method, task.path.name, str(outcome)))
        else:
            results[task] = outcome
    ordered = [results[task] for task in tasks if task in results]
    evaluation = evaluation_of(ordered, skipped, metrics(), asdict(config), commit())
    write_evaluation(out / "evaluation.json", evaluation)
    if ordered:
        print(evaluation_text(evaluation, TABLE))
    for one in skipped:
        print(f"evaluate.py: skipped {one.file} of {one.method}: {one.reason}", file=sys.stderr)
    print(f"evaluation: {out / 'evaluation.json'}")
    return 1 if skipped else 0


if __name__ == "__main__":
    settings.command(main, EvaluationConfig, __doc__)
