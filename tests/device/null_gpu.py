"""Run a Python module on a GPU whose kernels do nothing, where there is no GPU.

`null_runtime.c` and `null_driver.c` stand in for libcudart, cuBLAS, NCCL and libcuda, by LD_PRELOAD. Device memory is
reserved and not committed, so that torch's own allocator, its peaks and its OutOfMemoryError are those of a card at
full size. Fake tensors alone do not reach so far: a backward pass of a CUDA build without a GPU raises
"hasPrimaryContext expects a valid device index", and FSDP2 needs streams.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cluster.bootstrap.ray_environment import ALLOCATOR_NAMES

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_COMPILE_S, _RUN_S = 120, 900
_LIBRARIES = ("libtorch_cuda.so", "libc10_cuda.so", "libtorch_python.so", "libtorch_cuda_linalg.so")
_CALLS = r"(?:cuda[A-Z]|cublas|nccl)\w+"


def build(folder: Path) -> Path:
    """Compile both libraries into `folder`: the functions of the C files, and one that returns 0 for every other.

    Skips the test, aloud, where there is no gcc or nm, or where torch has no CUDA.
    """
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"the null GPU needs {tool}; apt-get install build-essential")
    torch, headers = (Path(find_spec(name).origin).parent for name in ("torch", "triton"))
    headers = headers / "backends" / "nvidia" / "include"
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        pytest.skip("the null GPU needs a torch that is built for CUDA")
    missing = {
        name
        for library in _LIBRARIES
        if (torch / "lib" / library).exists()
        for name in re.findall(rf" U ({_CALLS})", _output("nm", "-D", "--undefined-only", str(torch / "lib" / library)))
    }
    of_driver = set(re.findall(r"CUDAAPI (cu[A-Z]\w+)\(", (headers / "cuda.h").read_text()))
    of_driver |= set(re.findall(r"define +(cu[A-Z]\w+) ", (headers / "cuda.h").read_text()))
    of_driver |= set(
        re.findall(r" U (cu[A-Z]\w+)", _output("nm", "-D", "-u", str(torch / "lib" / "libcaffe2_nvrtc.so")))
    )
    for source, names, options, library in (
        ("null_runtime.c", missing, (f"-I{headers}",), "libnullcuda.so"),
        ("null_driver.c", of_driver, ("-Wl,-soname,libcuda.so.1",), "libcuda.so.1"),
    ):
        own = set(re.findall(r"^[\w \*]*?\b(\w+)\(", (HERE / source).read_text(), re.MULTILINE))
        rest = folder / f"rest_of_{source}"
        rest.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names - own)))
        _output("gcc", "-O1", "-fPIC", "-shared", "-w", *options, "-o", str(folder / library), str(HERE / source),
                str(rest), "-ldl", "-lpthread")  # fmt: skip
    return folder


def run_scenarios(libraries: Path, scenarios: Sequence[Mapping[str, Any]], gigabytes: int = 80) -> list[dict[str, Any]]:
    """Run `scenarios` of `tests.device.scenarios` in one process on a null GPU; returns what they print."""
    # A run in this process may have asked for segments that grow, which take memory that the null driver has not.
    inherited = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_NAMES}
    environment = inherited | {
        "LD_PRELOAD": str(libraries / "libnullcuda.so"),
        "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "NULLCUDA_COPY_MB": "1",  # larger copies from the host are counted and left out
        "NULLCUDA_GB": str(gigabytes),
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, "-m", "tests.device.scenarios", *map(json.dumps, scenarios)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_RUN_S)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(results) == len(scenarios), f"status {done.returncode}: {done.stderr[-3000:]}"
    return results


def peak_bytes(result: Mapping[str, Any]) -> int:
    """Return the largest peak of a scenario's parts."""
    return max(result["peaks"].values())


def planned_bytes(result: Mapping[str, Any]) -> int:
    """Return what the dry run gives for it, without the VAE, which no scenario has."""
    return sum(value for name, value in result["planned"].items() if name != "VAE")


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_S).stdout
