"""The paper's result, as numbers: `make proofs` trains it on three seeds."""

import json
import subprocess
import sys

import pytest
from PIL import Image

import demo
import settings
from cluster.launch import launch, preflight
from reports import demo_report
from settings.compose import ROOT


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.slow
def test_the_demo_leaves_a_summary_and_a_report_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_report, "VIDEOS", 2)
    short = ["ode.steps=2", "ode.pairs=4", "ode.first_pairs=4", "dmd.steps=1", "rollout.frames=24"]
    config = settings.load(["cluster=inline", f"run_dir={tmp_path}/demo", *short], preset="demo")
    for _ in range(2):
        preflight(config)
        launch(demo.demo_loop, config)
    demo.main(config)
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    assert summary["commit"] and {"ode", "prefix_1", "uniform"} <= set(summary["seconds"])
    for name in ("prefix_1", "uniform"):
        method = summary["methods"][name]
        assert method["videos"] == 2
        assert len(method["validity"]) == len(method["dynamic_degree"]) == len(method["exposure_drift"]) == 16
        judged = json.loads((tmp_path / "demo/evaluation.json").read_text())["methods"][name]
        assert judged["metrics"]["validity.16"]["mean"] == pytest.approx(method["validity"][-1], abs=1e-9)
    with Image.open(tmp_path / "demo/strips.png") as picture:
        assert picture.format == "PNG"
    lines = [json.loads(line) for line in (tmp_path / "demo/metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["ode", "ode", "prefix_1", "uniform"]
    starts = {line["stage"]: line["buffer/starts"]["student"] for line in lines if line["stage"] != "ode"}
    assert set(starts["prefix_1"]) == {"0"} and set(starts["uniform"]) - {"0"}
    assert "report.html" in capsys.readouterr().out


@pytest.mark.proof
@pytest.mark.parametrize(("seed", "cluster"), [(0, "ray"), (1, "inline"), (2, "inline")])
def test_after_sixteen_horizons_uniform_windows_hold_and_a_prefix_does_not(seed, cluster, tmp_path):
    command = [sys.executable, "demo.py", f"seed={seed}", f"cluster={cluster}", f"run_dir={tmp_path}/demo"]
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
