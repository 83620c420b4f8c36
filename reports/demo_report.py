"""Generate, judge and report the videos of demo.py: 16 teacher horizons from each of its students."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from actors.generation.streaming import make_videos
from cluster.config.run_config import Config
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from evaluation.evaluation_table import evaluation_of, write_evaluation
from evaluation.metrics import Metric
from evaluation.tiny_metrics import segment_values, summarise_segments
from models.atomic_files import write_atomic
from models.checkpoints.weight_files import load_weights
from models.noise import evaluation_seeds
from models.wan.network import Wan
from models.worlds.tiny_prompts import spread_prompts
from models.worlds.tiny_world import FPS, HORIZON, encode_text, to_pixels
from reports import run_report
from reports.figures import CURVES, MethodResult, milestones, seconds_at

HORIZONS = 16
VIDEOS = 32


def demo_prompts() -> list[str]:
    """Choose VIDEOS prompts, spread over all of the tiny world's."""
    return spread_prompts(VIDEOS)


def write_demo_videos(config: Config, name: str, log: RunLog) -> None:
    """Write videos of HORIZONS teacher horizons from the student of a stage: the same prompts and noise for each."""
    folder = RunFolder(config.run_dir)
    path = folder.path / name / "videos.safetensors"
    if path.is_file():
        return
    with folder.timed(f"videos_{name}"):
        frames = HORIZONS * config.student.horizon_frames
        prompts, seeds = demo_prompts(), evaluation_seeds(config.seed, VIDEOS)

        def half(number: int) -> Tensor:
            """Make the first or the second half of the videos, by a network of its own: it keeps its last positions."""
            student = Wan(config.student.wan).eval()
            load_weights(student, folder.stage(name).result, "run_dir")
            rows = slice(number * VIDEOS // 2, (number + 1) * VIDEOS // 2)
            show = log.progress if number == 0 else lambda *_: None
            return make_videos(
                student, config.student, prompts[rows], seeds[rows], frames, encode_text,
                lambda done: show(f"videos {name}", done, frames, ""),
            )  # fmt: skip

        with ThreadPoolExecutor(2) as pool:  # the actor's core is idle
            latents = torch.cat(list(pool.map(half, range(2))))
        write_atomic(path, save({"video": (to_pixels(latents) * 255).round().byte()}))


def demo_evaluation(arms: Sequence[MethodResult], settings: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """Put the methods together: their metrics at 1, 2, 4, ... horizons, with intervals over videos."""
    described = {
        f"{curve.key}.{segment}": Metric(
            f"{curve.label}: {segment}x, the segment that ends at {seconds_at(segment)}",
            curve.unit,
            "high" if curve.best else "low",
        )
        for curve in CURVES
        for segment in milestones(arms[0].segments)
    }
    results = [_judged(arm, index) for arm in arms for index in range(len(arm.prompts))]
    return evaluation_of(results, [], described, settings, commit) | {"step_s": HORIZON / FPS}


def _judged(arm: MethodResult, index: int) -> dict[str, Any]:
    """Build the result of one video in the form of evaluate.py's, with its curves by horizon."""
    curves = arm.by_video[index]
    _, frames, _, height, width = arm.videos.shape
    ends = {f"{curve.key}.{n}": curves[curve.key][n - 1] for curve in CURVES for n in milestones(arm.segments)}
    return {
        "method": arm.name, "name": f"video_{index:04d}", "prompt": arm.prompts[index], "fps": FPS, "height": height,
        "width": width, "frames": frames, "seconds": frames / FPS, "metrics": ends, "curves": curves,
    }  # fmt: skip


def judge_method(name: str, title: str, videos: Tensor, prompts: list[str]) -> MethodResult:
    """Judge the videos [B T 3 H W] of a method once, all together and each on its own."""
    values = segment_values(videos, prompts, HORIZON)
    by_video = [summarise_segments(values, slice(index, index + 1)) for index in range(len(prompts))]
    return MethodResult(name, title, summarise_segments(values), videos, prompts, by_video)


def write_demo_report(config: Config, titles: Mapping[str, str], methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Judge the videos of the stages in `titles`; write their numbers and report.html; print the table."""
    print("judging the videos")
    torch.set_num_threads(config.cluster.threads)
    folder = RunFolder(config.run_dir)
    arms = []
    for name, title in titles.items():
        video = load_file(folder.path / name / "videos.safetensors")["video"].float() / 255
        arms.append(judge_method(name, title, video, demo_prompts()))
    times = folder.times()
    summary = run_report.write_summary(
        folder.path / "summary.json",
        commit=" then ".join(dict.fromkeys(commit for stage in times.values() for commit in stage["commits"])),
        seconds={name: stage["seconds"] for name, stage in times.items()},
        settings=asdict(config) | {"methods": dict(methods)},
        arms=arms,
    )
    evaluation = demo_evaluation(arms, summary["settings"], summary["commit"])
    write_evaluation(folder.path / "evaluation.json", evaluation)
    run_report.write_report(folder.path / "report.html", summary, arms, evaluation)
    run_report.write_picture(folder.path / "strips.png", arms)
    print(run_report.summary_headline(summary))
    print(run_report.summary_table(summary))
    print(f"report: {folder.path / 'report.html'}")
