"""The paper's result, as numbers: `make proofs` trains it on three seeds."""

import json
import subprocess
import sys

import pytest

from settings import ROOT


@pytest.mark.proof
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_after_sixteen_horizons_uniform_windows_hold_and_a_prefix_does_not(seed, tmp_path):
    command = [sys.executable, "demo.py", f"seed={seed}", f"run_dir={tmp_path}/demo"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert shown.returncode == 0, shown.stderr
    print(shown.stdout)
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    uniform, prefix = summary["methods"]["uniform"], summary["methods"]["prefix_1"]
    assert uniform["videos"] >= 32 and len(uniform["validity"]) == 16
    assert uniform["validity"][-1] >= 0.90
    assert uniform["dynamic_degree"][-1] >= 0.85 * uniform["dynamic_degree"][0]
    assert uniform["validity"][-1] - prefix["validity"][-1] >= 0.25
    assert (tmp_path / "demo/report.html").is_file()
