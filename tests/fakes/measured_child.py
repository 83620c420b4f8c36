"""A command of the repository as a child process, in which a network of any size has a name, and its peak memory."""

import atexit
import json
import re
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from models.checkpoints.safetensors_files import Stored, write_tensors
from models.network_config import CONFIGS, TINY, WanConfig
from models.wan.network import Wan

ROOT = Path(__file__).parents[2]
NAME = "sized"
"""Name of the network in the child."""


def save_random_weights(wan: WanConfig, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A file of `wan`'s weights, written one tensor at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        planned = {name: Stored(tuple(p.shape), dtype) for name, p in Wan(wan).state_dict().items()}
    small = ((name, 0.02 * torch.randn(one.shape, generator=generator)) for name, one in planned.items())
    write_tensors(path, planned, small)
    return path


def peak_bytes(wan: WanConfig, script: str, *arguments: str, timeout_s: float = 900) -> int:
    """The largest resident memory of `script`, run as a user runs it."""
    command = [sys.executable, "-m", "tests.fakes.measured_child", json.dumps(asdict(wan)), script, *arguments]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert shown.returncode == 0, shown.stderr[-2000:]
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", shown.stdout)[1])


def _print_peak() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")), flush=True)


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    CONFIGS[NAME] = replace(TINY, **fields | {"patch_size": tuple(fields["patch_size"])})
    atexit.register(_print_peak)
    sys.argv = sys.argv[2:]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(sys.argv[0], run_name="__main__")
