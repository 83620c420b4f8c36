"""CPUs that a process may use: of the scheduler's and the control group's answers, the smaller one."""

import os
import subprocess
import sys

import pytest

from cluster.bootstrap.cpus import usable_cpus
from settings.compose import ROOT


def version_2(folder, written):
    (folder / "cpu.max").write_text(f"{written} 100000\n")


def version_1(folder, written):
    (folder / "cpu").mkdir()
    (folder / "cpu/cpu.cfs_quota_us").write_text(f"{written}\n".replace("max", "-1"))
    (folder / "cpu/cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize("write", [version_2, version_1])
@pytest.mark.parametrize(("written", "cpus"), [("max", 8), ("300000", 3), ("250000", 2), ("50000", 1), ("1600000", 8)])
def test_a_control_group_that_gives_less_time_counts_and_one_that_gives_more_does_not(
    write, written, cpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    write(tmp_path, written)
    assert usable_cpus(tmp_path) == cpus


def test_without_a_control_group_it_is_the_cpus_that_the_process_may_be_scheduled_on(tmp_path):
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    asked = f"import os, pathlib; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); "
    asked += f"from cluster.bootstrap.cpus import usable_cpus; print(usable_cpus(pathlib.Path({str(tmp_path)!r})))"
    shown = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.stdout == "1\n", shown.stderr
