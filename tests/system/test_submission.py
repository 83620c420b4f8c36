"""docs/cluster/ as people follow it: labelled nodes, a submission, what one sees of it, a kill, the next one."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from settings.compose import ROOT
from tests.docs.documented import documented
from tests.fakes.started import BIN, StartedNodes, until

STEPS = 40
LONGER = f" checkpoint.every=1 dmd.steps={STEPS}"
"""Of the documented command, so that there is a middle to look at it and to kill it in."""


def placeholders(nodes, shared):
    return {"http://HEAD:8265": nodes.job_server, "HEAD:6379": nodes.address, "/shared": str(shared)}


@pytest.fixture(params=[pytest.param("open", marks=pytest.mark.core), "token"])
def nodes(request, tmp_path):
    """The head and the learner's node of the page; the rollouts' is not there yet."""
    started = StartedNodes(tmp_path, request.param, documented("ray start --head"))
    if request.param == "token":
        token = tmp_path / "home/.ray/auth_token"
        token.unlink()
        made = started.run(
            f"{documented('export RAY_AUTH_MODE=token')} && {documented('ray get-auth-token --generate')}"
        )
        assert made.returncode == 0 and token.is_file(), made.stderr
    with started:
        started.add(documented("ray start --address=HEAD:6379 --num-cpus=2 --labels role=learner"))
        yield started


def dmd_lines(run_dir):
    metrics = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return [line for line in lines if line["stage"] == "dmd"]


def driver(run_dir):
    """The entry point of the submission; a shell of Ray's carries its words too."""
    (found,) = (p for p in psutil.process_iter(["cmdline"]) if f"run_dir={run_dir}" in (p.info["cmdline"] or [""])[1:])
    return found


def answer(nodes, command):
    shown = nodes.run(command)
    assert shown.returncode == 0, f"{command}: {shown.stderr[-2000:]}"
    return shown.stdout


def look_while_it_waits(nodes, here):
    """The commands under Watch that need no actor: at this time the run goes nowhere, however slow they are."""
    assert "RUNNING" in answer(nodes, documented("ray job list", here))
    assert "RUNNING" in answer(nodes, documented("ray job status", here))
    assert "learner" in answer(nodes, documented("ray list nodes", here) + " --format json")
    assert "/2.0 CPU" in answer(nodes, documented("ray status", here))


def places_of_actors(nodes, here):
    """By class, the label of the node that an actor lives on."""
    actors = json.loads(answer(nodes, documented("ray list actors", here) + " --format json"))
    known = json.loads(answer(nodes, documented("ray list nodes", here) + " --format json"))
    role_of = {node["node_id"]: node["labels"].get("role", "head") for node in known}
    return {actor["class_name"].split(".")[-1]: role_of[actor["node_id"]] for actor in actors}


@pytest.mark.ray
@pytest.mark.proof
def test_a_submission_waits_for_its_nodes_runs_where_the_labels_are_and_the_next_one_resumes_it(nodes, tmp_path):
    shared = tmp_path / "shared"
    here, run_dir = placeholders(nodes, shared), shared / "runs/a"
    first = nodes.run(
        documented("ray job submit --address http://HEAD:8265 --submission-id a-1", here) + LONGER, cwd=ROOT
    )
    assert first.returncode == 0, first.stderr[-3000:]
    logs = documented("ray job logs", here)
    waited = r"2 of 3 CPUs registered, waiting for role=rollout \(0 of 1 rollout, 0 of 1 reward\)"
    until(lambda: re.search(waited, nodes.run(logs).stdout), 180, "the command says what it waits for")
    look_while_it_waits(nodes, here)
    nodes.add(documented("ray start --address=HEAD:6379 --num-cpus=2 --labels role=rollout"))
    until(lambda: len(dmd_lines(run_dir)) >= 3, 400, "the first submission trains")
    places = places_of_actors(nodes, here)
    assert places["RolloutProcess"] == "rollout" and places["Coordinator"] == "head"
    assert {place for name, place in places.items() if "TrainWorker" in name} == {"learner"}
    assert json.loads(answer(nodes, documented("tail -n 1", here)))["stage"] == "dmd"
    if nodes.env["RAY_AUTH_MODE"] == "token":
        stopped = nodes.run(documented("ray job stop", here))
        assert stopped.returncode == 0, stopped.stderr
    else:
        driver(run_dir).kill()
    status = documented("ray job status", here)
    until(lambda: "RUNNING" not in nodes.run(status).stdout, 180, "the first submission ends")
    assert re.search("(?i)stopped|failed", nodes.run(status).stdout)
    before = dmd_lines(run_dir)
    print(f"the first submission was ended after {len(before)} of {STEPS} updates; actors were on {places}")
    assert len(before) < STEPS, "it was ended in the middle"
    second = nodes.run(
        documented("ray job submit --address http://HEAD:8265 --submission-id a-2", here) + LONGER, cwd=ROOT
    )
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-2000:]
    steps = [line["step"] for line in dmd_lines(run_dir)]
    print(f"the second submission went on: steps {steps}")
    assert set(steps) == set(range(1, STEPS + 1)) and len(steps) <= STEPS + 1, (
        "at most the update since the last checkpoint twice"
    )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert Counter(line["stage"] for line in lines if line["stage"] != "dmd") == {"teacher": 4, "ode": 4, "grpo": 4}
    assert load_file(run_dir / "grpo/student.safetensors")


@pytest.mark.ray
@pytest.mark.proof
def test_a_driver_from_outside_trains_on_the_cluster_and_without_the_token_is_refused_at_once(tmp_path):
    with StartedNodes(tmp_path, "token", "ray start --head --num-cpus=3") as nodes:
        command = documented(
            "python train.py preset=smoke run_dir=/shared/runs/d", placeholders(nodes, tmp_path / "shared")
        )
        refused = nodes.run(command, cwd=ROOT, RAY_AUTH_MODE="disabled")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert all(fact in refused.stderr for fact in ("RAY_AUTH_MODE=disabled: ", nodes.address))
        shown = nodes.run(f"{command} 'stage=[teacher,ode,dmd]'", cwd=ROOT)
        assert shown.returncode == 0, shown.stderr[-3000:]
        assert len(dmd_lines(tmp_path / "shared/runs/d")) == 4


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.parametrize("auth", ["open", "token"])
def test_the_probe_of_the_manifest_finds_a_node_that_is_well_and_one_that_is_not(auth, tmp_path):
    _, job = yaml.safe_load_all((ROOT / "cluster/kuberay/rayjob.yaml").read_text())
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    *_, probe = pod["livenessProbe"]["exec"]["command"]
    assert ":52365/" in probe, "where the agent of a node listens unless told otherwise"
    with StartedNodes(tmp_path, auth, "ray start --head --num-cpus=0") as nodes:
        here = probe.replace(":52365/", f":{nodes.agents[0]}/")
        until(lambda: nodes.run(here, RAY_AUTH_MODE="").returncode == 0, 120, "the node is well")
    assert nodes.run(here).returncode != 0


@pytest.mark.ray
@pytest.mark.proof
def test_the_runtime_environment_makes_a_bare_ray_run_the_pinned_requirements(tmp_path, monkeypatch):
    """An environment with Ray and nothing else, as its images are: seven gigabytes, two minutes and more."""
    uv, bare = BIN / "uv", tmp_path / "bare"
    pinned = re.search(r"(?m)^ray==(\S+)", (ROOT / "requirements.txt").read_text())[1]
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, bare], check=True, timeout=60)
    packages = [f"ray[default]=={pinned}", "virtualenv", "pip"]
    install = [uv, "pip", "install", "-q", "--python", bare / "bin/python", *packages]
    subprocess.run(install, check=True, timeout=300)
    assert subprocess.run([bare / "bin/python", "-c", "import torch"], capture_output=True).returncode != 0
    cache = subprocess.run([uv, "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("UV_CACHE_DIR", cache)  # the nodes' home is another, and nothing is downloaded twice
    with StartedNodes(tmp_path, "open", "ray start --head --num-cpus=3", bin=bare / "bin") as nodes:
        command = documented("ray job submit --address http://HEAD:8265 --runtime-env", placeholders(nodes, tmp_path))
        shown = nodes.run(f"{command} 'stage=[teacher,ode,dmd]'", cwd=ROOT, timeout=1500)
        assert shown.returncode == 0, shown.stdout[-3000:] + shown.stderr[-2000:]
        assert len(dmd_lines(tmp_path / "runs/c")) == 4
    shutil.rmtree(bare)


def test_a_dry_run_of_the_page_prints_placement_and_upload(tmp_path):
    shown = shell(
        documented("python train.py preset=wan_1_3b cluster=h100_32 run_dir=/shared/runs/a dry_run=true"), tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    for line in (
        "8 x 1 CPU, 1 GPU, on role=learner",
        "24 x 1 CPU, 0.75 GPU, on role=rollout",
        "ray job submit",
    ):
        assert line in shown.stdout


@pytest.mark.proof
def test_each_half_runs_alone_as_the_page_says(tmp_path):
    for half in (
        documented(
            "python train.py preset=smoke stage=dmd init=assets/tiny/student_uniform.safetensors debug.rollout_"
        ),
        documented(
            "python train.py preset=smoke stage=dmd init=assets/tiny/student_uniform.safetensors debug.learner_"
        ),
    ):
        shown = shell(half, tmp_path)
        assert shown.returncode == 0, shown.stderr[-2000:]
    assert (tmp_path / "runs/e/learner_only/metrics.jsonl").is_file()


def shell(command, shared):
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(shared)}
    return subprocess.run(
        ["bash", "-c", command.replace("/shared", str(shared))],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
