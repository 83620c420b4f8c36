"""Make blocks of a rollout on demand, so that two commits can be timed in turns.

python -m benchmarks.lock_step model=mid dtype=float32     one block for each line on stdin
Its answers: its commit when the cache is full, then the seconds of each block.

`benchmarks.rollout_fps against=FOLDER` starts one such process here and one in FOLDER, a checkout of another commit. A
commit from before this file needs one there that answers alike with that commit's own names.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import settings
from benchmarks.ceilings import block_seconds
from benchmarks.command import run
from benchmarks.measured_network import MODELS, measured_student
from models.errors import ConfigError
from models.keys import DTYPES, KeyGroup, key
from models.provenance import commit


@dataclass(kw_only=True)
class LockStepOptions(KeyGroup):
    """Describes the rollout whose blocks are made."""

    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    dtype: str = key("float32", "precision: " + " or ".join(DTYPES), choices=DTYPES)
    compile: bool = key(False, "compile the networks with torch.compile, block by block")


def main(options: LockStepOptions) -> None:
    from benchmarks.rollout_fps import WARM_UP, endless  # which starts this module's processes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = measured_student(options.model)
    blocks = endless(student, device, getattr(torch, options.dtype), options.compile)
    for _ in range(student.attention_frames // student.block_frames + WARM_UP):
        next(blocks)
    print(commit(), flush=True)
    for _ in sys.stdin:
        print(block_seconds(lambda: next(blocks), 1, device), flush=True)


@contextmanager
def _answering(folder: Path, arguments: Mapping[str, object]) -> Iterator[subprocess.Popen]:
    """Start this module in the checkout `folder` with one thread; it ends with the context."""
    command = [sys.executable, "-m", "benchmarks.lock_step", *(f"{name}={value}" for name, value in arguments.items())]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def in_turns(other: Path, arguments: Mapping[str, object], pairs: int) -> tuple[list[float], list[float], str]:
    """Return the seconds of `pairs` blocks of this checkout and of `other`, made in turns, and the other's commit.

    Who begins changes with every pair, so that a drift of the clock favours neither. Raises ConfigError where a
    process ends early.
    """
    seconds: dict[Path, list[float]] = {settings.ROOT: [], other: []}
    with ExitStack() as stack:
        processes = {folder: stack.enter_context(_answering(folder, arguments)) for folder in seconds}

        def read(folder: Path) -> str:
            line = processes[folder].stdout.readline().strip()
            if not line:
                fix = "see its message above; a commit from before benchmarks/lock_step.py needs one"
                raise ConfigError("against", str(folder), "the process there ended", fix)
            return line

        commits = {folder: read(folder) for folder in (other, settings.ROOT)}
        for pair in range(pairs):
            for folder in sorted(seconds, key=lambda one: (one == other) ^ (pair % 2)):
                processes[folder].stdin.write("\n")
                processes[folder].stdin.flush()
                seconds[folder].append(float(read(folder)))
    return seconds[settings.ROOT], seconds[other], commits[other]


if __name__ == "__main__":
    run(main, __doc__, LockStepOptions)
