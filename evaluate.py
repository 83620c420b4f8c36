"""Judge long videos: curves of every second, where in time each method breaks, one table and one report.

python evaluate.py videos=FOLDER [key=value ...]
python evaluate.py checkpoint=FILE prompts=FILE seconds=60 [keys of evaluate.py and generate.py ...]

Reads the videos of any tool (mp4, mov, mkv, webm, avi, gif, or safetensors), several folders side by side, or first
generates them from a student. preset=paper makes the paper's table in the tiny world, of the shipped student and of
those in checkpoint=[name=file,...]. Writes rows per second, evaluation.json and report.html into out (runs/evaluation). The
same command again continues where it stopped. Exit status 1: some videos could not be judged; they are listed.
  python evaluate.py videos=runs/videos
  python evaluate.py 'videos=[ours=runs/a,theirs=runs/b]' workers=2 out=runs/compare
  python evaluate.py checkpoint=assets/tiny/student_uniform.safetensors prompts=prompts.txt 'horizons=[5,30]'
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import settings
from actors.generation.generation_config import GenerationConfig
from evaluation.evaluation_config import EvaluationConfig, methods_of

TABLE = ("luma.worst", "contrast.worst", "saturation.worst", "clipped.worst", "sharpness.worst", "motion.worst",
         "luma.ends", "luma.outside", "dynamic_degree", "no_repeat", "still", "cuts")  # fmt: skip
"""Metrics in the terminal's table; the report has all of them."""


PAPER = "preset=paper"
SHIPPED = "[Self-Forcing++=assets/tiny/student_uniform.safetensors]"
"""Students of the paper's table where none is given."""


class Work(NamedTuple):
    """Hold the keys of the evaluation, and those of the videos to generate, by method."""

    config: EvaluationConfig
    generation: dict[str, GenerationConfig]
    is_paper: bool = False
    """Whether the paper's table is asked for, in the tiny world."""


def read_work(arguments: Sequence[str]) -> Work:
    """Read the keys of evaluate.py; with checkpoint= all others are keys of generate.py. Raises ConfigError."""
    given = any(argument.startswith("checkpoint=") for argument in arguments)
    if PAPER in arguments:
        others = [argument for argument in arguments if argument != PAPER]
        shipped = [] if given else [f"checkpoint={SHIPPED}"]
        return Work(settings.read_keys([*others, *shipped], EvaluationConfig), {}, is_paper=True)
    if not given:
        return Work(settings.read_keys(arguments, EvaluationConfig), {})
    known = settings.keys_of(EvaluationConfig)
    own = [argument for argument in arguments if argument.partition("=")[0] in known]
    others = [argument for argument in arguments if argument not in own]
    config = settings.read_keys(own, EvaluationConfig)
    if config.prompts is not None:
        others.append(f"prompts={config.prompts}")
    if config.horizons and not any(argument.startswith("seconds=") for argument in others):
        others.append(f"seconds={max(config.horizons)}")
    students = methods_of("checkpoint", config.checkpoint)
    return Work(config, {
        method: settings.read_keys([*others, f"checkpoint={path}", f"out={config.out}"], GenerationConfig, "student")
        for method, path in students.items()
    })  # fmt: skip


def generate_students(work: Work, out: Path, run: Callable[..., Any]) -> tuple[dict[str, str], list[Any]]:
    """Generate the missing videos of every student; returns the folders by method, and what failed."""
    from actors.generation.video_folder import generate_whole, missing_videos, plan_folder
    from evaluation.video_tasks import Skipped

    folders = {method: out / "videos" / method for method in work.generation}
    planned = {method: plan_folder(config, folders[method]) for method, config in work.generation.items()}
    missing = [config for configs in planned.values() for config in missing_videos(configs)]
    failures = [
        Skipped(Path(config.out).parent.name, Path(config.out).name, str(outcome))
        for config, outcome in run(generate_whole, missing, "generate")
        if isinstance(outcome, Exception)
    ]
    return {method: str(folder) for method, folder in folders.items()}, failures


def print_paper_table(config: EvaluationConfig) -> int:
    """Make and print the paper's table in the tiny world. Returns the exit status."""
    from cluster.runs.display import Display
    from models.user_paths import user_path
    from reports.paper_report import paper_table, paper_text, write_paper_table

    students = methods_of("checkpoint", config.checkpoint)
    with Display() as display:
        table = paper_table(
            {name: user_path(path, "checkpoint") for name, path in students.items()},
            lambda name, done, frames: display(name, done, frames, ""),
        )
    path = user_path(config.out, "out") / "paper_table.json"
    write_paper_table(path, table)
    print(paper_text(table))
    print(f"table: {path}")
    return 0


def main(work: Work) -> int:
    """Generate what is missing, judge the videos and write table and report. Returns the exit status."""
    from actors.prompts import prompt_texts
    from cluster.runs.provenance import commit
    from cluster.video_jobs import run_each
    from evaluation.evaluation_table import evaluation_of, evaluation_text, write_evaluation
    from evaluation.summaries import metrics
    from evaluation.video_evaluation import evaluate_video
    from evaluation.video_tasks import Skipped, list_videos
    from models.user_paths import user_path

    if work.is_paper:
        return print_paper_table(work.config)
    config, out = work.config, user_path(work.config.out, "out")
    run = partial(
        run_each, workers=config.workers, gpus=config.worker_gpus, address=config.address, timeout_s=config.timeout_s
    )
    folders, failures = generate_students(work, out, run)
    prompts = None
    if config.prompts is not None and not work.generation:
        prompts = list(prompt_texts(user_path(config.prompts, "prompts")))
    given = methods_of("videos", config.videos)
    tasks, skipped = list_videos(given | folders, prompts, out, config.tensor_fps)
    results = {}
    for task, outcome in run(evaluate_video, tasks, "judge"):
        if isinstance(outcome, Exception):
            skipped.append(Skipped(task.method, task.path.name, str(outcome)))
        else:
            results[task] = outcome
    skipped += failures
    evaluation = evaluation_of(
        [results[task] for task in tasks if task in results], skipped, metrics(), asdict(config), commit()
    )
    write_evaluation(out / "evaluation.json", evaluation)
    print(evaluation_text(evaluation, TABLE))
    for one in skipped:
        print(f"evaluate.py: skipped {one.file} of {one.method}: {one.reason}", file=sys.stderr)
    print(f"evaluation: {out / 'evaluation.json'}")
    return 1 if skipped else 0


if __name__ == "__main__":
    settings.command(main, EvaluationConfig, __doc__, read_work, groups=("preset",))
