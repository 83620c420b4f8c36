"""Run the tests that need a GPU, and print how many passed as one JSON line; pytest's output goes to standard error.

python -m benchmarks.gpu_tests               on a machine with a GPU
python -m benchmarks.gpu_tests device=cpu    a rehearsal of those that compare devices, CPU against CPU

Only files with a test marked `gpu` are read, because collecting all takes minutes. Skipped tests are listed with their
reasons: without flash-attn, or without a C compiler, there is nothing to test.
"""

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

import settings
from benchmarks.command import run
from benchmarks.gpu_machine import KINDS
from benchmarks.line import print_line
from benchmarks.rollout_fps import device_name
from models.errors import ConfigError, StopsRun
from models.keys import KeyGroup, key

_REHEARSED = "tests/device"


class TestsFailed(StopsRun):
    """Names the tests that failed on this machine."""


@dataclass(kw_only=True)
class TestOptions(KeyGroup):
    """Names the device."""

    device: str = key("cuda", "device: cuda, or cpu for a rehearsal", choices=KINDS)


@dataclass
class Outcomes:
    """Counts outcomes, as a plug-in of pytest."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped[report.nodeid] = str(report.longrepr[-1] if report.longrepr else "")
        elif report.when == "call":
            self.passed.append(report.nodeid)


def main(options: TestOptions) -> None:
    """Run the tests. Raises TestsFailed, and ConfigError where the packages for tests are missing."""
    for package in ("pytest", "hypothesis"):
        if find_spec(package) is None:
            raise ConfigError("python", sys.executable, f"it has no {package}", "install requirements.txt")
    import pytest

    os.environ["LONGTAKE_TEST_DEVICE"] = options.device
    root = settings.ROOT / (_REHEARSED if options.device == "cpu" else "tests")
    files = sorted(str(path) for path in root.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    outcomes = Outcomes()
    with redirect_stdout(sys.stderr):
        status = pytest.main(["-x", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *files], plugins=[outcomes])
    if outcomes.failed or status or not outcomes.passed:
        raise TestsFailed(f"tests on the GPU: {', '.join(outcomes.failed) or f'none ran (pytest status {status})'}")
    print_line(
        "gpu_tests", [len(outcomes.passed)], "tests passed", device_name(torch.device(options.device)),
        {"files": len(files), "torch": torch.__version__}, skipped=outcomes.skipped,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, __doc__, TestOptions)
