"""Check a machine with one GPU in at most 8 minutes: tests, speed, memory, profiles; a JSON file per quantity.

python -m benchmarks.gpu_check                            a GPU (`make gpu`): Wan 1.3B, 480x832, bfloat16
python -m benchmarks.gpu_check device=cpu model=tiny      a rehearsal on a CPU, about two minutes
python -m benchmarks.gpu_check 'only=[dmd,profile]'       some of the steps, which are: machine, tests, rollout, ode,
                                                          dmd, grpo, profile, compiled

Weights are random. Any Python with the packages of requirements.txt will do. Results go to benchmarks/results/DEVICE,
or to `out`: NAME.json for every line, two Chrome traces, and gpu_check.log with everything that was printed. Each step
is a process of its own with a time limit. The first that fails ends the command with status 1 and one line, which names
the files to send. Where only the memory or the replay differs from what the plan says, the other steps still run.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import settings
from benchmarks.command import run
from benchmarks.gpu_machine import KINDS
from benchmarks.measured_network import MODELS
from cluster.bootstrap.ray_environment import settle_allocator
from models.errors import ConfigError, StopsRun
from models.keys import KeyGroup, key
from models.user_paths import user_path
from models.wan.device_faults import compiler_fault

LOG = "gpu_check.log"
_LIMIT_S = 480
_MISTAKE = 2
"""Status of a step that the user, or the machine, can mend: nothing to send."""
_MEMORY_ERROR = 0.15
"""Largest difference between the dry run's bytes and those that were held, as a share."""


class CheckFailed(StopsRun):
    """Names the step that failed, its reason, and the files to send."""


@dataclass(frozen=True)
class Step:
    """Describes one process of the check."""

    name: str
    module: str
    keys: Sequence[str]
    limit_s: int
    """Longest duration, or what is left of the 8 minutes."""
    suffix: str = ""
    """Ends the names of its lines, where another step prints the same ones."""


@dataclass(kw_only=True)
class CheckOptions(KeyGroup):
    """Describes a check."""

    device: str = key("cuda", "device: cuda, or cpu for a rehearsal", choices=KINDS)
    model: str = key("wan_1_3b", "network: " + ", ".join(MODELS), choices=MODELS)
    layers: int | None = key(None, "layers of the networks, for small GPUs and rehearsals; none: all", ge=1)
    compile: bool | None = key(None, "run step compiled; none: where there are a GPU and a C compiler")
    vae: bool | None = key(None, "decode in the rollout, and fork the group in mid-video; none: for Wan on a GPU")
    scale: float = key(1.0, "factor on all time limits, for a GPU that is slower than an H100", gt=0)
    only: list[str] = key([], "steps to run, in their order; []: all")
    out: str | None = key(None, "folder of the results; none: benchmarks/results/DEVICE")


def steps_of(options: CheckOptions, folder: Path, compiled: bool) -> list[Step]:
    """List the steps in their order, the one that compiles last. Raises ConfigError for names in `only` that are none.

    All but the last together have 7 minutes; how long compiling takes, nobody knows.
    """
    size = [f"model={options.model}", *([f"layers={options.layers}"] if options.layers else [])]
    vae = [] if options.vae is None else [f"vae={str(options.vae).lower()}"]
    start = ["start=0"] if options.vae is False else []  # a group in mid-video has image latents
    blocks = [*size, "blocks=4", "repeats=3"]
    steps = [
        Step("machine", "gpu_machine", [f"device={options.device}", *size], 30),
        Step("tests", "gpu_tests", [f"device={options.device}"], 90),
        Step("rollout", "rollout_fps", [*blocks, *vae], 60),
        Step("ode", "update_speed", ["stage=ode", *size], 45),
        Step("dmd", "update_speed", ["stage=dmd", *size], 60),
        Step("grpo", "update_speed", ["stage=grpo", "warm_up=false", *size, *start], 75),
        Step("profile", "gpu_profile", [*size, f"out={folder}"], 60),
        Step("compiled", "rollout_fps", [*blocks, "vae=false", "compile=true"], 150, suffix="_compiled"),
    ]
    names = [step.name for step in steps]
    if unknown := [name for name in options.only if name not in names]:
        raise ConfigError("only", options.only, f"{unknown[0]} is no step", f"choose from {', '.join(names)}")
    chosen = options.only or names[: None if compiled else -1]
    return [step for step in steps if step.name in chosen]


def main(options: CheckOptions) -> None:
    """Run the steps, one after the other. Raises CheckFailed at the first that fails."""
    folder = results_folder(options)
    began, disagreements = time.monotonic(), []
    compiled = (
        options.compile if options.compile is not None else options.device == "cuda" and not compiler_fault("cuda")
    )
    environment = dict(os.environ)
    settle_allocator(environment)
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(folder / LOG, "a+") as log:
        for step in steps_of(options, folder, compiled):
            left_s = options.scale * _LIMIT_S - (time.monotonic() - began)
            for line in lines_of(step, min(options.scale * step.limit_s, left_s), log, environment):
                print(json.dumps(line), flush=True)
                (folder / f"{line['name']}.json").write_text(json.dumps(line, indent=1) + "\n")
                if options.device == "cuda" and (why := disagreement(line)) is not None:
                    disagreements.append(why)
    if disagreements:
        raise CheckFailed(
            f"all steps ran, but {'; '.join(disagreements)}. Send us {folder / LOG} and the files beside it"
        )
    print(f"all steps passed in {time.monotonic() - began:.0f} s; the results are in {folder}", file=sys.stderr)


def lines_of(step: Step, limit_s: float, log: IO[str], environment: Mapping[str, str]) -> list[dict]:
    """Run a step and return its lines; they and its errors go to `log`. Raises CheckFailed, after `limit_s` too.

    The process has a session of its own: whatever it started ends with it, and it ends with this one (Ctrl-C, SIGTERM).
    """
    print(f"{step.name} (up to {limit_s:.0f} s)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{step.module}", *step.keys]
    print("\n$", *command, file=log, flush=True)
    begins = log.tell()
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # scancel, ray job stop
    process = subprocess.Popen(
        command, cwd=settings.ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=max(1.0, limit_s))
        ended = f"status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        ended = f"stopped after {limit_s:.0f} s; a slower GPU than an H100 needs scale=2 or layers=12"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    log.seek(begins)
    said = [line.strip() for line in log.read().splitlines() if line.strip()]
    print(printed, file=log, flush=True)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    for line in lines:
        line["name"] += step.suffix
    if process.returncode or not lines:
        reason = said[-1][:300].rstrip(".") if said else "no message"
        if process.returncode == _MISTAKE:
            raise CheckFailed(f"step {step.name}: {reason}.")
        raise CheckFailed(f"step {step.name} failed ({ended}): {reason}. Send us {log.name} and the files beside it")
    return lines


def disagreement(line: dict) -> str | None:
    """Return in what a line contradicts what this project claims, or None."""
    name, value, limit = line["name"], line["value"], line["limit"]
    warm = line.get("config", {}).get("warm_up", True)  # the first update has no moments of the optimiser
    if name.endswith("_update_memory") and warm and abs(value / limit - 1) > _MEMORY_ERROR:
        return f"{name} is {value:.1f} GB where the dry run says {limit:.1f}"
    if name == "grpo_replay_error" and value > limit:
        return f"{name} is {value:.1e}, above half the clip ({limit:.1e})"
    return None


def results_folder(options: CheckOptions) -> Path:
    """Make the folder of the results, named after the device."""
    if options.out is not None:
        folder = user_path(options.out, "out").absolute()
    else:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
        name = "cpu"
        if options.device == "cuda":
            try:  # torch would start CUDA in this process, whose memory the steps need
                name = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip() or "gpu"
            except (OSError, subprocess.TimeoutExpired):
                name = "gpu"
        folder = settings.ROOT / "benchmarks" / "results" / re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "out", options.out, f"no folder can be made there ({error.strerror})", "change out"
        ) from error
    return folder


if __name__ == "__main__":
    run(main, __doc__, CheckOptions)
