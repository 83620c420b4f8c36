"""What one trial does: train, here or as a run on Ray, be measured on the way, be judged at the end."""

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from evaluation.metrics import segment_metrics
from learner.parallel import collectives
from models.checkpoints.weight_files import load_weights
from models.noise import Draw, generator_for
from models.wan.network import Wan
from models.worlds.tiny_world import PROMPTS, encode_text, to_pixels

Tell = Callable[[dict[str, float]], None]
"""Takes a measurement; does not return if the trial is to be stopped."""
_STAGE = "dmd"
_POLL_S = 1.0


def run_trial(loop: Loop, trial: Trial, scan: ScanConfig, tell: Tell) -> None:
    """Go on with `trial` from where it is; each measurement is kept, then told.

    A process that trains and is silent for scan.timeout_s is ended, and so is the driver of a run that, beyond what it
    may take to begin, does not get on for so long: nothing is held for ever.
    """
    config, began, began_cpu = trial.config, time.monotonic(), time.process_time()
    torch.set_num_threads(config.cluster.threads)
    preflight(config)
    measuring = partial(_train, loop=loop, trial=trial, scan=scan)
    if config.cluster.kind == "inline":
        launch(partial(measuring, tell=tell), config)
    else:
        with followed(trial, scan, tell):
            launch(partial(measuring, tell=_nobody), config)
    with _watched(scan.timeout_s):
        metrics, video, prompts = judge(_student(config), config, scan.videos, scan.horizons)
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": None}
        if config.cluster.kind == "inline":
            spent["cpu_seconds"] = time.process_time() - began_cpu
        measured = _measurement(
            config.dmd.steps, 1 - metrics["validity"][min(scan.measured_horizons, scan.horizons) - 1]
        )
        trial.folder.keep_measurement(measured)
        trial.folder.keep_scores({"metrics": metrics, "prompts": prompts} | spent, video)
    tell(measured)


def judge(student: Wan, config: Config, videos: int, horizons: int) -> tuple[dict[str, list[float]], Tensor, list[str]]:
    """Metrics by horizon of that many videos, the videos [B T 3 H W] in [0, 1], and their prompts.

    Prompts and noise depend on the seed alone, so students of one seed are compared on the same.
    """
    prompts = [PROMPTS[(7 * i) % len(PROMPTS)] for i in range(videos)]
    drawn = torch.randint(2**62, (videos,), generator=generator_for(config.seed, Draw.EVALUATION))
    frames = horizons * config.student.horizon_frames
    latents = make_videos(student, config.student, prompts, drawn.tolist(), frames, encode_text, lambda done: None)
    video = to_pixels(latents)
    return segment_metrics(video, prompts, config.student.horizon_frames), video, prompts


@contextmanager
def followed(trial: Trial, scan: ScanConfig, tell: Tell) -> Iterator[None]:
    """Inside the block, tell what another process measures, as it comes to be in the trial's folder.

    The folder is what they share in any case; a message would have to survive the same losses.
    """
    folder, cluster = trial.folder, trial.config.cluster
    patience_s = cluster.nodes_timeout_s + cluster.start_timeout_s + scan.timeout_s
    known = {measured["time"] for measured in folder.measurements}
    ended, errors = threading.Event(), []

    def follow() -> None:
        updates = folder.path / "metrics.jsonl"
        written = updates.stat().st_size if updates.exists() else 0
        try:
            while True:
                last = ended.is_set()
                for measured in folder.measurements:
                    if measured["time"] not in known:
                        known.add(measured["time"])
                        tell(measured)
                if last:
                    return
                if updates.exists() and (size := updates.stat().st_size) > written:
                    written = size
                    _watch(patience_s)
                ended.wait(_POLL_S)
        except Exception as error:  # raised below, in the thread of the trial
            errors.append(error)

    thread = threading.Thread(target=follow, daemon=True)  # it may be held while Tune ends this process
    thread.start()
    with _watched(patience_s):
        try:
            yield
        finally:
            ended.set()
            thread.join()
    for error in errors:
        raise error


class _Overheard:
    """A cluster, and the weights that were last published to it for a measurement."""

    def __init__(self, cluster: Cluster, config: Config, every: int):
        self.cluster, self.computing, self.every = cluster, computing_of(config), every
        self.published: Mapping[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cluster, name)

    def publish(self, tensors: Mapping[str, Tensor], update: int) -> None:
        """As actors get them. No clone: they are measured before the next update."""
        self.published = self.computing.cast(tensors) if update % self.every == 0 else {}
        self.cluster.publish(tensors, update)


def _train(
    config: Config, cluster: Cluster, log: Progress, loop: Loop, trial: Trial, scan: ScanConfig, tell: Tell
) -> None:
    """In the learner's process, or in each of its ranks: the first one measures."""
    if collectives.rank() > 0:
        loop(config, cluster, log)
        return
    student, overheard = Wan(config.student.wan).eval(), _Overheard(cluster, config, scan.every)

    def measured(stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        log(stage, step, steps, metrics)
        _watch(scan.timeout_s)
        if step % scan.every == 0 and step < steps:
            student.load_state_dict(overheard.published)
            found = judge(student, config, scan.measured_videos, scan.measured_horizons)[0]
            measurement = _measurement(step, 1 - found["validity"][-1])
            trial.folder.keep_measurement(measurement)
            tell(measurement)

    with _watched(scan.timeout_s):
        loop(config, overheard, measured)


def _nobody(measured: dict[str, float]) -> None:
    """The process that speaks with Tune is another one: see `followed`."""


def _measurement(step: int, drift: float) -> dict[str, float]:
    return {"step": step, "drift": drift, "time": time.time()}


def _student(config: Config) -> Wan:
    student = Wan(config.student.wan).eval()
    load_weights(student, RunFolder(config.run_dir).stage(_STAGE).result, "run_dir")
    return student


@contextmanager
def _watched(silence_s: float) -> Iterator[None]:
    _watch(silence_s)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _watch(silence_s: float) -> None:
    """From now on. The watchdog is a thread outside Python: it ends what hangs in a kernel, too."""
    faulthandler.dump_traceback_later(silence_s, exit=True)
