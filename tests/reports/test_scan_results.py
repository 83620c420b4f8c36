"""Arms of a scan: mean and interval over seeds, differences on the same seed, the CSV, the report."""

import csv
import json
import re

import pytest
import torch

from evaluation.tiny_metrics import segment_metrics
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import HORIZON, sample_video
from reports import scan_report
from reports.scan_results import arms_of, scan_table, seed_interval, write_csv
from settings.scan_arguments import plan

HORIZONS = 4


def test_an_interval_is_that_of_students_t():
    values = [0.91, 0.97, 0.85]
    mean = sum(values) / 3
    deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert seed_interval(values) == pytest.approx((mean, 4.302653 * deviation / 3**0.5))  # the table's t for 2 degrees
    assert str(seed_interval([0.5])) == "0.50" and seed_interval([0.5]).half is None


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Uniform holds on both seeds; prefix(1) darkens on seed 0 and is stopped on seed 1."""
    folder = tmp_path_factory.mktemp("scan")
    scan, trials = plan(["window=prefix,uniform", "scan.seeds=[0,1]", f"run_dir={folder}", "scan.horizons=4"])
    prompts, generator = list(PROMPTS[::9]), torch.Generator().manual_seed(0)
    real = torch.stack([sample_video(prompt, HORIZONS * HORIZON, generator) for prompt in prompts])
    shade = torch.linspace(0, 0.7, HORIZONS * HORIZON)[:, None, None, None]
    for trial in trials:
        dark = trial.arm == "prefix"
        (folder / "trials" / trial.arm / f"seed_{trial.config.seed}").mkdir(parents=True)
        trial.folder.keep_measurement({"step": 25, "drift": 0.5 * dark, "time": 1.0})
        if dark and trial.config.seed == 1:
            trial.folder.stop(trial.folder.measurements[-1])
            continue
        video = real * (1 - shade) if dark else real
        metrics = segment_metrics(video, prompts, HORIZON)
        trial.folder.keep_scores({"metrics": metrics, "prompts": prompts, "seconds": 2.0, "cpu_seconds": 1.5}, video)
    return scan, trials


def test_a_dry_run_says_what_a_trial_takes_and_which_there_are(scanned):
    first, takes, _, *arms = scan_report.scan_overview(*scanned).splitlines()
    assert re.findall(r"\d+", first)[:2] == ["4", "80"] and " 1 x 1 CPU, " in takes
    assert arms == ["  prefix: seeds 0, 1", "  uniform: seeds 0, 1"]


def test_an_arm_is_told_by_the_seeds_that_it_has_finished(scanned):
    prefix, uniform = arms_of(scanned[1])
    assert list(prefix.finished) == [0] and list(uniform.finished) == [0, 1]
    assert prefix.at("validity", HORIZONS).half is None and uniform.at("validity", HORIZONS).half == 0
    ends = [arm.finished[0]["validity"][-1] for arm in (uniform, prefix)]
    assert uniform.above(prefix, "validity") == {0: ends[0] - ends[1]} and ends[0] > ends[1]


def test_the_csv_has_a_row_for_each_trial_and_horizon_and_one_for_a_stopped_trial(scanned, tmp_path):
    _, trials = scanned
    write_csv(tmp_path / "scan.csv", trials)
    with (tmp_path / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    finished = [row for row in rows if row["state"] == "finished"]
    assert len(rows) == 3 * HORIZONS + 1 and len(finished) == 3 * HORIZONS
    for row in finished:
        trial = next(t for t in trials if (t.values["window"], str(t.config.seed)) == (row["window"], row["seed"]))
        for metric, values in trial.folder.scores["metrics"].items():
            assert float(row[metric]) == values[int(row["horizon"]) - 1]
    stopped = [row for row in rows if row["state"] == "stopped"]
    assert [(row["trial"], row["seed"], row["updates"], row["validity"]) for row in stopped] == [
        ("prefix", "1", "25", "")
    ]


def test_the_table_says_what_became_of_every_trial(scanned):
    text = scan_table(arms_of(scanned[1]))
    assert re.search(r"^prefix +1 finished, 1 stopped$", text, re.M) and re.search(r"^uniform +2 finished$", text, re.M)
    assert re.search(r"^uniform +1\.00 ± 0\.00", text, re.M)
    assert re.search(r"^uniform .*prefix .*4x: \+\d\.\d\d .*0$", text, re.M)


def test_the_report_is_one_file_that_compares_every_arm(scanned, capsys):
    scan, trials = scanned
    scan_report.write_scan_report(scan, trials)
    page = (trials[0].folder.path.parents[2] / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page), "nothing that lies outside the file"
    assert page.count("data:image/png") == 2 * scan_report.SHOWN * 3, "of each arm, at 1, 2 and 4 horizons"
    assert page.count("<svg") == 2 + 4 and "stopped" in page
    end = arms_of(trials)[0].finished[0]["validity"][-1]
    assert f"+{1 - end:.2f}" in page and json.dumps("uniform")[1:-1] in page
    assert "1 stopped" in capsys.readouterr().out


def test_a_scan_of_which_nothing_is_finished_leaves_its_csv_alone(tmp_path, capsys):
    scan, trials = plan(["window=prefix,uniform", "scan.seeds=[0]", f"run_dir={tmp_path}"])
    scan_report.write_scan_report(scan, trials)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.csv"]
    assert "1 unfinished" in capsys.readouterr().out
