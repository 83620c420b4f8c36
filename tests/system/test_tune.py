"""The ablation of Self-Forcing++, as numbers: `make proofs` trains it."""

import csv
import subprocess
import sys
import time
from collections import defaultdict

import pytest

from settings.compose import ROOT
from tests.fakes.commands import mistake


def command(*arguments, timeout):
    return subprocess.run(
        [sys.executable, "tune.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def test_a_key_that_does_not_exist_is_refused_in_one_line_and_nothing_is_made(tmp_path, capsys):
    line = mistake(capsys, "tune.py", "dmd.lr=1e-4,2e-4", f"run_dir={tmp_path}/scan")
    assert line.startswith("dmd.lr=") and not (tmp_path / "scan").exists()


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_the_default_scan_shows_that_uniform_windows_hold_where_a_prefix_does_not_on_every_seed(tmp_path):
    began = time.monotonic()
    shown = command(f"run_dir={tmp_path}/scan", timeout=3 * 3600)
    minutes = (time.monotonic() - began) / 60
    assert shown.returncode == 0, shown.stderr
    print(f"{minutes:.1f} minutes\n{shown.stdout}")
    with (tmp_path / "scan/scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["state"] for row in rows} == {"finished"}, "nothing is stopped before it can be compared"
    ends = defaultdict(dict)
    for row in rows:
        if row["horizon"] == "16":
            ends[row["trial"]][row["seed"]] = float(row["validity"])
    assert list(ends) == ["prefix(1)", "prefix(2)", "beta(1, 4)", "beta(1, 2)", "uniform"]
    assert all(sorted(by_seed) == ["0", "1", "2"] for by_seed in ends.values())
    assert all(ends["uniform"][seed] - ends["prefix(1)"][seed] >= 0.25 for seed in ("0", "1", "2"))
    assert (tmp_path / "scan/report.html").is_file()
    assert minutes < 30, "on two free cores, as --help promises"
