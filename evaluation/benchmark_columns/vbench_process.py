"""Run one dimension of VBench in a process of its own environment, under a time limit, with a log."""

import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from evaluation.benchmark_columns.benchmark_config import VBenchConfig, vbench_python
from models.user_paths import user_path

_SCRIPT = Path(__file__).with_name("vbench_script.py")
_PERCENT = frozenset({"imaging_quality"})
"""Dimensions whose scores of single videos are in 0 to 100; VBench divides their mean only."""


class DimensionFailed(Exception):
    """Tells in a few words why a dimension has no scores."""


def run_dimension(
    dimension: str, clips: Mapping[str, Path], prompts: Mapping[str, str], config: VBenchConfig, work: Path
) -> dict[str, float]:
    """Compute the score of every clip by its name, 0 to 1. Raises DimensionFailed.

    `work` holds the links to the clips and VBench's own files while it runs; what it prints goes to `work`.log.
    """
    shutil.rmtree(work, ignore_errors=True)
    videos, output, result = work / "videos", work / "output", work / "scores.json"
    videos.mkdir(parents=True)
    output.mkdir()
    for name, clip in clips.items():
        (videos / name).symlink_to(clip.absolute())
    job = {
        "dimension": dimension, "device": config.device, "prompts": {name: prompts[name] for name in clips},
        "videos": str(videos.absolute()), "output": str(output.absolute()), "result": str(result.absolute()),
    }  # fmt: skip
    (work / "job.json").write_text(json.dumps(job))
    status = _run_script(config, work)
    if status is None:
        raise DimensionFailed(f"not finished in {config.timeout_s:g} s")
    if status or not result.is_file():
        raise DimensionFailed(f"VBench ended with status {status}")
    scores = json.loads(result.read_text())
    if any(name not in scores or not math.isfinite(scores[name]) for name in clips):
        raise DimensionFailed("VBench left out some clips")
    shutil.rmtree(work)
    scale = 100.0 if dimension in _PERCENT else 1.0
    return {name: scores[name] / scale for name in clips}


def _run_script(config: VBenchConfig, work: Path) -> int | None:
    """Return the exit status of the script; None where its time was over and it was killed, with its children."""
    environment = dict(os.environ)
    if config.cache is not None:
        environment["VBENCH_CACHE_DIR"] = str(user_path(config.cache, "vbench.cache").absolute())
    command = [vbench_python(config.python), _SCRIPT.absolute(), (work / "job.json").absolute()]
    with work.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=work, env=environment, start_new_session=True
        )
        try:
            return process.wait(config.timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # also after Ctrl-C, which does not reach another session
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
