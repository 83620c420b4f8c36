"""Judge long videos: curves of every second, where in time each method breaks, one table and one report.

python evaluate.py videos=FOLDER [key=value ...]
python evaluate.py checkpoint=FILE prompts=FILE seconds=60 [keys of evaluate.py and generate.py ...]
python evaluate.py preset=paper [checkpoint=[name=file,...]]

Reads the videos of any tool (mp4, mov, mkv, webm, avi, gif, or safetensors), several folders side by side, or first
generates them from a student. Writes rows per second, evaluation.json and report.html into out (runs/evaluation). The
same command again continues where it stopped. Exit status 1: some videos could not be judged; they are listed.
preset=paper makes the paper's main table in the tiny world, of the shipped student or of those given.
  python evaluate.py videos=runs/videos
  python evaluate.py 'videos=[ours=runs/a,theirs=runs/b]' workers=2 out=runs/compare
  python evaluate.py checkpoint=assets/tiny/student_uniform.safetensors prompts=prompts.txt 'horizons=[5,30]'
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import settings
from actors.generation.generation_config import GenerationConfig
from evaluation.evaluation_config import EvaluationConfig, methods_of
from models.errors import ConfigError
from models.user_paths import existing_path, user_path

TABLE = (
    "visual_stability", "win_rate", "vs_proxy", "luma.worst", "contrast.worst", "saturation.worst", "clipped.worst",
    "sharpness.worst", "motion.worst", "luma.ends", "luma.outside", "dynamic_degree", "no_repeat", "still", "cuts",
)  # fmt: skip
"""Metrics in the terminal's table; the report has all of them."""
PAPER = "preset=paper"
SHIPPED = "checkpoint=[Self-Forcing++=assets/tiny/student_uniform.safetensors]"
PAPER_VIDEOS, PAPER_SEED = 32, 0
TAKEN = {"checkpoint", "out"}
"""Keys that the paper's table takes."""


class Work(NamedTuple):
    """Hold the keys of the evaluation, and those of the videos to generate, by method."""

    config: EvaluationConfig
    generation: dict[str, GenerationConfig]
    is_paper: bool = False
    """Whether to make the paper's table, in the tiny world."""


def read_work(arguments: Sequence[str]) -> Work:
    """Read the keys of evaluate.py; with checkpoint= all others are keys of generate.py. Raises ConfigError."""
    has_student = any(argument.startswith("checkpoint=") for argument in arguments)
    if PAPER in arguments:
        keys = list(arguments)
        keys.remove(PAPER)
        unused = {argument.partition("=")[0] for argument in keys} & (set(settings.keys_of(EvaluationConfig)) - TAKEN)
        if unused:
            raise ConfigError(min(unused), None, f"{PAPER} takes checkpoint and out only", "leave it out")
        return Work(settings.read_keys(keys if has_student else [*keys, SHIPPED], EvaluationConfig), {}, True)
    if not has_student:
        for name, _, value in (argument.partition("=") for argument in arguments):
            if name == "preset":
                raise ConfigError(name, value, "no preset of evaluations", f"write {PAPER}, or leave it out")
            if name in settings.keys_of(GenerationConfig) and name not in settings.keys_of(EvaluationConfig):
                problem = "a key of videos that are generated first"
                raise ConfigError(name, value, problem, f"write checkpoint=FILE, or leave {name} out")
        return Work(settings.read_keys(arguments, EvaluationConfig), {})
    known = settings.keys_of(EvaluationConfig)
    own = [argument for argument in arguments if argument.partition("=")[0] in known]
    others = [argument for argument in arguments if argument not in own]
    config = settings.read_keys(own, EvaluationConfig)
    if config.prompts is not None:
        others.append(f"prompts={config.prompts}")
    if config.horizons and not any(argument.startswith("seconds=") for argument in others):
        others.append(f"seconds={max(config.horizons)}")
    return Work(config, {
        method: settings.read_keys([*others, f"checkpoint={path}", f"out={config.out}"], GenerationConfig, "student")
        for method, path in methods_of("checkpoint", config.checkpoint).items()
    })  # fmt: skip


def make_paper_table(students: Mapping[str, str], out: Path) -> None:
    """Generate and judge the paper's videos of each of `students`, weights by method; print table, write page.

    Raises ConfigError.
    """
    from actors.generation.student_videos import student_videos
    from cluster.runs.display import Display
    from evaluation.evaluation_table import keep_earlier, write_evaluation
    from evaluation.paper_table import HORIZONS, judged_horizons, paper_table, paper_text
    from models.checkpoints.hub import weights_path
    from models.worlds.tiny_prompts import spread_prompts
    from models.worlds.tiny_world import HORIZON
    from reports.paper_report import write_paper_report

    prompts, paths = spread_prompts(PAPER_VIDEOS), {n: weights_path(one, "checkpoint") for n, one in students.items()}
    with Display() as display:
        videos = student_videos(
            paths, prompts, max(HORIZONS) * HORIZON, PAPER_SEED,
            lambda name, done, frames: display(name, done, frames, "frames"),
        )  # fmt: skip
    judged = {name: judged_horizons(own, prompts) for name, own in videos.items()}
    table = paper_table(judged)
    file, page = out / "paper_table.json", out / "paper_report.html"
    if note := keep_earlier(file, page, lambda before: before == json.loads(json.dumps(table))):
        print(f"note: {note}", file=sys.stderr)
    write_evaluation(file, table)
    used = {"videos": str(PAPER_VIDEOS), "seed": str(PAPER_SEED)}
    write_paper_report(page, table, judged, videos, used | {f"checkpoint.{n}": one for n, one in students.items()})
    print(paper_text(table))
    print(f"table: {file}\nreport: {page}")


def main(work: Work) -> int:
    """Generate what is missing, judge the videos and write table and report. Returns the exit status."""
    for path in methods_of("videos", work.config.videos).values():
        existing_path(path, "videos")
    from cluster.evaluation_run import add_columns, check_columns, generate_students, judge_methods
    from cluster.runs.display import Display
    from evaluation.evaluation_table import (
        evaluation_of,
        evaluation_text,
        judged_videos,
        keep_earlier,
        pairs_text,
        write_evaluation,
    )
    from models.provenance import commit
    from reports.evaluation_report import write_evaluation_report

    if work.is_paper:
        make_paper_table(methods_of("checkpoint", work.config.checkpoint), user_path(work.config.out, "out"))
        return 0
    check_columns(work.config)
    folders, failures = generate_students(work.generation, work.config)
    results, skipped = judge_methods(work.config, folders)
    skipped += failures
    described, notes = add_columns(work.config, results)
    settings_used = asdict(work.config)
    evaluation = evaluation_of(list(results.values()), skipped, described, settings_used, commit()) | notes
    path = user_path(work.config.out, "out") / "evaluation.json"
    videos = judged_videos(evaluation)
    if note := keep_earlier(path, path.with_name("report.html"), lambda before: judged_videos(before) == videos):
        print(f"note: {note}", file=sys.stderr)
    write_evaluation(path, evaluation)
    print(evaluation_text(evaluation, TABLE))
    if "pairwise" in evaluation:
        print(pairs_text(evaluation["pairwise"]["methods"]))
    if results:
        with Display() as display:
            write_evaluation_report(
                path.with_name("report.html"), evaluation, list(results),
                lambda done, videos: display("report", done, videos, "videos on the page"),
            )  # fmt: skip
        print(f"report: {path.with_name('report.html')}")
    for one in skipped:
        print(f"evaluate.py: skipped {one.file} of {one.method}: {one.reason}", file=sys.stderr)
    print(f"evaluation: {path}")
    return 1 if skipped else 0


if __name__ == "__main__":
    settings.command(main, EvaluationConfig, __doc__, read_work, groups=("preset",))
