"""The paper's result in the tiny world: short windows drift past the teacher's horizon, uniform windows do not.

ODE initialisation, then the same number of updates with each window law, then videos of 16 teacher horizons from each.
"""

import settings

USAGE = """python demo.py [key=value ...]

Trains two tiny students on a local Ray and writes report.html into run_dir (runs/demo); about ten minutes on two cores.
The same command again goes on where it stopped."""
if __name__ == "__main__":
    settings.answer_help(USAGE)

# ruff: noqa: E402  (torch takes seconds to import, help should not)
from dataclasses import asdict, dataclass, replace

import torch
from safetensors.torch import load_file, save

from actors.generation.whole_videos import make_videos
from cluster.config.run_config import Config
from cluster.runs.cluster_interface import Cluster
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from evaluation.metrics import segment_metrics
from models.atomic_files import write_whole
from models.checkpoints.weight_files import load_weights
from models.noise import Draw, generator_for
from models.wan.network import Wan
from models.worlds.tiny_world import PROMPTS, encode_text, to_pixels
from reports import run_report as report
from train import dmd, ode

HORIZONS = 16
VIDEOS = 32


@dataclass(frozen=True)
class Method:
    """One window law, and the rollouts that suit it."""

    title: str
    law: str
    rollout: dict[str, int]


METHODS = {
    # Each of its windows comes from a video of its own: a prefix of one horizon has one window only.
    "prefix_1": Method("Self-Forcing: windows of the first horizon", "prefix(1)", {"batch": 32, "windows": 1}),
    "uniform": Method("Self-Forcing++: windows from anywhere", "uniform", {}),
}


def loop(config: Config, cluster: Cluster, log: RunLog) -> None:
    """Everything that trains or generates; what is finished is not done again."""
    folder = RunFolder(config.run_dir)
    if not folder.stage("ode").finished:
        with folder.timed("ode"):
            ode(config, cluster, log)
    _generate(config, "ode", log)
    for name, method in METHODS.items():
        arm = replace(
            config,
            window=replace(config.window, law=method.law),
            rollout=replace(config.rollout, **method.rollout),
        )
        if not folder.stage(name).finished:
            with folder.timed(name):
                dmd(arm, cluster, log, name)
        _generate(config, name, log)


def _generate(config: Config, name: str, log: RunLog) -> None:
    """Videos of HORIZONS teacher horizons from the student of a stage: the same prompts and noise for each."""
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
            student, config.student, _prompts(), seeds, frames, encode_text,
            lambda done: log.progress(f"videos {name}", done, frames, ""),
        )  # fmt: skip
        write_whole(path, save({"video": (to_pixels(latents) * 255).round().byte()}))


def _prompts() -> list[str]:
    """Spread over the world's 72 prompts."""
    return [PROMPTS[(7 * i) % len(PROMPTS)] for i in range(VIDEOS)]


def write_up(config: Config) -> None:
    """Judge the videos; write summary.json and report.html; print the table."""
    print("judging the videos")
    torch.set_num_threads(config.cluster.threads)
    folder = RunFolder(config.run_dir)
    arms = []
    titles = {"ode": "ODE initialisation: before distillation"} | {n: m.title for n, m in METHODS.items()}
    for name, title in titles.items():
        video = load_file(folder.path / name / "videos.safetensors")["video"].float() / 255
        metrics = segment_metrics(video, _prompts(), config.student.horizon_frames)
        arms.append(report.MethodResult(name, title, metrics, video, _prompts()))
    made = folder.made()
    summary = report.write_summary(
        folder.path / "summary.json",
        commit=" then ".join(dict.fromkeys(commit for stage in made.values() for commit in stage["commits"])),
        seconds={name: stage["seconds"] for name, stage in made.items()},
        settings=asdict(config) | {"methods": {name: asdict(method) for name, method in METHODS.items()}},
        arms=arms,
    )
    report.write_report(folder.path / "report.html", summary, arms)
    report.write_picture(folder.path / "strips.png", arms)
    print(report.summary_headline(summary))
    print(report.summary_table(summary))
    print(f"report: {folder.path / 'report.html'}")


if __name__ == "__main__":
    write_up(settings.run(loop, preset="demo", fixed=("stage", "init", "window", "window.law")))
