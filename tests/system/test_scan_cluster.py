"""A scan whose trials are runs on a cluster, submitted as docs/cluster/ says: how many run together."""

import json
import re

import pytest
from safetensors.torch import load_file

from settings.compose import ROOT
from tests.docs.documented import documented
from tests.fakes.started import StartedNodes

SMALL = (
    " cluster.learner_ranks=2 dmd.steps=3 dmd.critic_updates=1 rollout.frames=15 rollout.windows=4 checkpoint.every=1"
    " scan.every=1 scan.measured_videos=1 scan.measured_horizons=1 scan.videos=2 scan.horizons=1 scan.keep=1"
)
"""Of the documented command: two learner ranks and a rollout process, three CPUs."""


def submitted(folder, cpus):
    """The folders of its two trials, and what the command printed."""
    with StartedNodes(folder, "open", documented("ray start --head")) as nodes:
        nodes.add(f"ray start --address=HEAD:6379 --num-cpus={cpus} --block")
        here = {"http://HEAD:8265": nodes.job_server, "/shared": str(folder / "shared")}
        command = documented("ray job submit --address http://HEAD:8265 --submission-id s-1", here)
        shown = nodes.run(command + SMALL, cwd=ROOT, timeout=1500)
        assert shown.returncode == 0, shown.stdout[-4000:] + shown.stderr[-2000:]
        scan = folder / "shared/scans/a"
        assert (scan / "report.html").is_file() and (scan / "scan.csv").is_file()
        return [scan / f"trials/{law}/seed_0" for law in ("uniform", "prefix")], shown.stdout


def updates(trial):
    return [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.parametrize(("cpus", "at_once"), [(4, 1), (6, 2)])
def test_trials_are_whole_runs_and_as_many_run_together_as_are_sure_to_have_room(cpus, at_once, tmp_path):
    """With four CPUs, two gangs of ranks would take all of them, and both would wait for a rollout process for ever."""
    trials, printed = submitted(tmp_path, cpus)
    assert re.search(rf"\b{at_once} \D*2 trials", printed)
    for trial in trials:
        assert [line["step"] for line in updates(trial)] == [1, 2, 3] and load_file(trial / "dmd/student.safetensors")
        assert [measured["step"] for measured in json.loads((trial / "measurements.json").read_text())] == [1, 2, 3]
        assert json.loads((trial / "scores.json").read_text())["metrics"]["validity"]
    first, second = sorted(json.loads((trial / "measurements.json").read_text())[-1]["time"] for trial in trials)
    began = max(updates(trial)[0]["time"] for trial in trials)
    assert (began < first) == (at_once == 2), "the second trains beside the first, or when that has ended"
    assert first < second
