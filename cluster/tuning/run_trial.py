"""Train one trial in this process or on Ray, measure it during training, score its videos."""

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from actors.generation.streaming import make_videos
from cluster.config.run_config import Config
from cluster.config.scan_config import ScanConfig
from cluster.launch import launch, preflight
from cluster.runs.cluster_interface import Cluster
from cluster.runs.factory import computing_of
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import Progress
from cluster.tuning.trials import Loop, Trial
from evaluation.tiny_metrics import segment_metrics
from learner.parallel import collectives
from models.checkpoints.weight_files import load_weights
from models.network_config import StudentConfig
from models.noise import evaluation_seeds
from models.wan.network import ComputeSpec, Wan
from models.worlds.tiny_prompts import spread_prompts
from models.worlds.tiny_world import encode_text, to_pixels

Report = Callable[[dict[str, float]], None]
"""Takes a measurement; does not return where the trial is to stop."""
_POLL_S = 1.0


def run_trial(loop: Loop, trial: Trial, scan: ScanConfig, report: Report) -> None:
    """Train `trial` from its last checkpoint; keep each measurement in its folder, then report it.

    A process that trains without an update for scan.timeout_s is ended, and so is the driver of a run that, beyond the
    time it may take to begin, has none for so long: a trial holds nothing for ever.
    """
    config, began, began_cpu = trial.config, time.monotonic(), time.process_time()
    inline = config.cluster.kind == "inline"
    torch.set_num_threads(config.cluster.threads)
    preflight(config)
    train = partial(_train, loop=loop, trial=trial, scan=scan, report=report if inline else None)
    with nullcontext() if inline else follow_folder(trial, scan, report):
        launch(train, config)
    with _watchdog(scan.timeout_s):
        student = Wan(config.student.wan).eval()
        load_weights(student, RunFolder(config.run_dir).stage("dmd").result, "run_dir")
        metrics, video, prompts = score_student(student, config.student, config.seed, scan.videos, scan.horizons)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
        drift = 1 - metrics["validity"][min(scan.measured_horizons, scan.horizons) - 1]
        measured = {"step": config.dmd.steps, "drift": drift, "time": time.time()}
        trial.folder.keep_measurement(measured)
        scores = {"metrics": metrics, "prompts": prompts, "seconds": seconds}
        trial.folder.keep_scores(scores | {"cpu_seconds": cpu_seconds if inline else None}, video)
    report(measured)


def score_student(
    student: Wan, shape: StudentConfig, seed: int, videos: int, horizons: int
) -> tuple[dict[str, list[float]], Tensor, list[str]]:
    """Make `videos` videos; returns metrics by horizon, the videos [B T 3 H W] in [0, 1], and their prompts.

    Prompts and noise depend on the seed alone, so students of one seed are compared on the same.
    """
    prompts, seeds = spread_prompts(videos), evaluation_seeds(seed, videos)
    frames = horizons * shape.horizon_frames
    latents = make_videos(student, shape, prompts, seeds, frames, encode_text, lambda done: None)
    video = to_pixels(latents)
    return segment_metrics(video, prompts, shape.horizon_frames), video, prompts


@contextmanager
def follow_folder(trial: Trial, scan: ScanConfig, report: Report) -> Iterator[None]:
    """Report the measurements that another process writes into the trial's folder, as long as the block runs.

    They share the folder in any case; a message would have to survive the same losses.
    """
    folder, cluster = trial.folder, trial.config.cluster
    patience_s = cluster.nodes_timeout_s + cluster.start_timeout_s + scan.timeout_s
    reported = {measured["time"] for measured in folder.measurements}
    ended, errors = threading.Event(), []

    def follow() -> None:
        updates = folder.path / "metrics.jsonl"
        written = updates.stat().st_size if updates.exists() else 0
        try:
            while True:
                last = ended.is_set()
                for measured in folder.measurements:
                    if measured["time"] not in reported:
                        reported.add(measured["time"])
                        report(measured)
                if last:
                    return
                if updates.exists() and (size := updates.stat().st_size) > written:
                    written = size
                    faulthandler.dump_traceback_later(patience_s, exit=True)
                ended.wait(_POLL_S)
        except Exception as error:  # raised below, in the thread of the trial
            errors.append(error)

    thread = threading.Thread(target=follow, daemon=True)  # it may be held while Tune ends this process
    thread.start()
    with _watchdog(patience_s):
        try:
            yield
        finally:
            ended.set()
            thread.join()
    for error in errors:
        raise error


class _Published:
    """Forwards the calls of a cluster, and holds the last published weights for a measurement."""

    def __init__(self, cluster: Cluster, computing: ComputeSpec, every: int):
        self.cluster, self.computing, self.every = cluster, computing, every
        self.published: Mapping[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cluster, name)

    def publish(self, weights: Callable[[], Mapping[str, Tensor]], update: int) -> None:
        """Hold the weights in the actors' dtype. No clone: they are measured before the next update."""

        def held() -> Mapping[str, Tensor]:
            tensors = weights()
            self.published = self.computing.cast(tensors) if update % self.every == 0 else {}
            return tensors

        self.cluster.publish(held, update)


def _train(
    config: Config, cluster: Cluster, log: Progress, loop: Loop, trial: Trial, scan: ScanConfig, report: Report | None
) -> None:
    """Run the loop in the learner's process, or in each of its ranks, of which the first one measures.

    `report` is None where another process reports: see `follow_folder`.
    """
    if collectives.rank() > 0:
        loop(config, cluster, log)
        return
    student, published = Wan(config.student.wan).eval(), _Published(cluster, computing_of(config.rollout), scan.every)

    def log_and_measure(stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        log(stage, step, steps, metrics)
        faulthandler.dump_traceback_later(scan.timeout_s, exit=True)
        if step % scan.every == 0 and step < steps:
            student.load_state_dict(published.published)
            videos, horizons = scan.measured_videos, scan.measured_horizons
            scores = score_student(student, config.student, config.seed, videos, horizons)[0]
            measured = {"step": step, "drift": 1 - scores["validity"][-1], "time": time.time()}
            trial.folder.keep_measurement(measured)
            if report is not None:
                report(measured)

    with _watchdog(scan.timeout_s):
        loop(config, published, log_and_measure)


@contextmanager
def _watchdog(silence_s: float) -> Iterator[None]:
    """End this process `silence_s` after the last restart. No Python thread: it ends a hanging kernel, too."""
    faulthandler.dump_traceback_later(silence_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
