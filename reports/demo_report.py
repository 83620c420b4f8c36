"""Generate, judge and report the videos of demo.py: 16 teacher horizons from each of its students."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import load_file, save

from actors.generation.streaming import make_videos
from cluster.config.run_config import Config
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from evaluation.metrics import segment_metrics
from models.atomic_files import write_atomic
from models.checkpoints.weight_files import load_weights
from models.noise import Draw, generator_for
from models.wan.network import Wan
from models.worlds.tiny_world import PROMPTS, encode_text, to_pixels
from reports import run_report

HORIZONS = 16
VIDEOS = 32


def demo_prompts() -> list[str]:
    """Choose VIDEOS prompts, spread over all of the tiny world's."""
    return [PROMPTS[(7 * i) % len(PROMPTS)] for i in range(VIDEOS)]


def write_demo_videos(config: Config, name: str, log: RunLog) -> None:
    """Write videos of HORIZONS teacher horizons from the student of a stage: the same prompts and noise for each."""
    folder = RunFolder(config.run_dir)
    path = folder.path / name / "videos.safetensors"
    if path.is_file():
        return
    with folder.timed(f"videos_{name}"):
        student = Wan(config.student.wan).eval()
        load_weights(student, folder.stage(name).result, "run_dir")
        frames = HORIZONS * config.student.horizon_frames
        seeds = [int(s) for s in torch.randint(2**62, (VIDEOS,), generator=generator_for(config.seed, Draw.EVALUATION))]
        latents = make_videos(
            student, config.student, demo_prompts(), seeds, frames, encode_text,
            lambda done: log.progress(f"videos {name}", done, frames, ""),
        )  # fmt: skip
        write_atomic(path, save({"video": (to_pixels(latents) * 255).round().byte()}))


def write_demo_report(config: Config, titles: Mapping[str, str], methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Judge the videos of the stages in `titles`; write summary.json and report.html; print the table."""
    print("judging the videos")
    torch.set_num_threads(config.cluster.threads)
    folder = RunFolder(config.run_dir)
    arms = []
    for name, title in titles.items():
        video = load_file(folder.path / name / "videos.safetensors")["video"].float() / 255
        metrics = segment_metrics(video, demo_prompts(), config.student.horizon_frames)
        arms.append(run_report.MethodResult(name, title, metrics, video, demo_prompts()))
    times = folder.times()
    summary = run_report.write_summary(
        folder.path / "summary.json",
        commit=" then ".join(dict.fromkeys(commit for stage in times.values() for commit in stage["commits"])),
        seconds={name: stage["seconds"] for name, stage in times.items()},
        settings=asdict(config) | {"methods": dict(methods)},
        arms=arms,
    )
    run_report.write_report(folder.path / "report.html", summary, arms)
    run_report.write_picture(folder.path / "strips.png", arms)
    print(run_report.summary_headline(summary))
    print(run_report.summary_table(summary))
    print(f"report: {folder.path / 'report.html'}")
