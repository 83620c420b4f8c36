"""What one trial does in its process: train, be measured on the way, be judged at the end."""

import faulthandler
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from actors.videos import make_videos
from cluster.config import Config
from cluster.inline import InlineCluster
from cluster.launch import launch, preflight
from cluster.run_folder import RunFolder
from cluster.run_log import RunLog
from cluster.scan import Loop, Trial
from cluster.scan_config import ScanConfig
from models.files import load_weights
from models.noise import Draw, generator_for
from models.tiny_world import PROMPTS, decode, encode_text
from models.wan import Wan
from rewards.segments import segment_metrics

Tell = Callable[[dict[str, float]], None]
"""Takes a measurement; does not return if the trial is to be stopped."""
_STAGE = "dmd"


def run_trial(loop: Loop, trial: Trial, scan: ScanConfig, tell: Tell) -> None:
    """Go on with `trial` from where it is; each measurement is kept, then told.

    A trial that is silent for scan.timeout_s ends its process.
    """
    config, began, began_cpu = trial.config, time.monotonic(), time.process_time()
    _watch(scan)
    try:
        preflight(config)
        launch(partial(_train, loop=loop, trial=trial, scan=scan, tell=tell), config)
        _watch(scan)
        metrics, video, prompts = judge(_student(config), config, scan.videos, scan.horizons)
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - began_cpu}
        measured = _measurement(
            config.dmd.steps, 1 - metrics["validity"][min(scan.measured_horizons, scan.horizons) - 1]
        )
        trial.folder.keep_measurement(measured)
        trial.folder.keep_scores({"metrics": metrics, "prompts": prompts} | spent, video)
    finally:
        faulthandler.cancel_dump_traceback_later()
    tell(measured)


def judge(student: Wan, config: Config, videos: int, horizons: int) -> tuple[dict[str, list[float]], Tensor, list[str]]:
    """Metrics by horizon of that many videos, the videos [B T 3 H W] in [0, 1], and their prompts.

    Prompts and noise depend on the seed alone, so students of one seed are compared on the same.
    """
    prompts = [PROMPTS[(7 * i) % len(PROMPTS)] for i in range(videos)]
    drawn = torch.randint(2**62, (videos,), generator=generator_for(config.seed, Draw.EVALUATION))
    frames = horizons * config.student.horizon_frames
    latents = make_videos(student, config.student, prompts, drawn.tolist(), frames, encode_text, lambda done: None)
    video = decode(latents)
    return segment_metrics(video, prompts, config.student.horizon_frames), video, prompts


def _train(
    config: Config, cluster: InlineCluster, log: RunLog, loop: Loop, trial: Trial, scan: ScanConfig, tell: Tell
) -> None:
    student = Wan(config.student.wan).eval()

    def measured(stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        log(stage, step, steps, metrics)
        _watch(scan)
        if step % scan.every == 0 and step < steps:
            student.load_state_dict(cluster.published.tensors)
            found = judge(student, config, scan.measured_videos, scan.measured_horizons)[0]
            measurement = _measurement(step, 1 - found["validity"][-1])
            trial.folder.keep_measurement(measurement)
            tell(measurement)

    loop(config, cluster, measured)


def _measurement(step: int, drift: float) -> dict[str, float]:
    return {"step": step, "drift": drift, "time": time.time()}


def _student(config: Config) -> Wan:
    student = Wan(config.student.wan).eval()
    load_weights(student, RunFolder(config).stage(_STAGE).result, "run_dir")
    return student


def _watch(scan: ScanConfig) -> None:
    """From now on. The watchdog is a thread outside Python: it ends what hangs in a kernel, too."""
    faulthandler.dump_traceback_later(scan.timeout_s, exit=True)
