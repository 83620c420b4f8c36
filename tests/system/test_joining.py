"""What a command says, and how soon, about a cluster that is not there, not ours, too small, or without the folder."""

import errno
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest

import settings
from cluster.bootstrap.nodes import folder_fault, mark_fault
from cluster.bootstrap.ray_head import require_head
from cluster.run_errors import CannotStart
from cluster.runs.run_folder import RunFolder
from tests.fakes.commands import mistake
from tests.fakes.started import free_ports

# -- the address ------------------------------------------------------------------------------------------------------


def test_an_address_where_nobody_answers_is_refused_at_once():
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(CannotStart, match=f"^cluster.address={address}: "):
        require_head(address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "^cluster.address=.* a dashboard's"),
        ("ray://127.0.0.1:10001", "^cluster.address=.* Ray Client's"),
        ("127.0.0.1:99999999", "^cluster.address=127.0.0.1:99999999: "),
    ],
)
def test_an_address_of_another_kind_is_refused_with_the_right_one(address, said):
    with pytest.raises(CannotStart, match=said):
        require_head(address)


def test_a_port_of_something_else_is_no_ray_head():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(CannotStart, match=r"^cluster.address=.*UNAVAILABLE"):
            require_head(f"127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize("script", ["train.py", "tune.py"])
def test_a_command_that_reaches_no_cluster_ends_in_one_line_and_claims_no_folder(script, tmp_path, capsys):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    line = mistake(capsys, script, f"cluster.address={address}", f"run_dir={tmp_path}/run")
    assert f"cluster.address={address}" in line and not (tmp_path / "run").exists()


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_is_at_fault_when_the_run_is_not_seen_in_it_or_nothing_can_be_written(tmp_path, monkeypatch):
    assert "config.yaml" in folder_fault(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    assert folder_fault(str(tmp_path)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"], "nothing of the trial is left"
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: True)
    # Nobody may write there, root included.
    assert os.strerror(errno.ENOENT) in folder_fault("/proc")


def test_a_folder_is_another_one_where_the_mark_is_not_seen(tmp_path):
    (tmp_path / ".seen").touch()
    assert mark_fault(str(tmp_path), ".seen") is None
    assert mark_fault(str(tmp_path), ".other") and mark_fault(str(tmp_path / "no"), ".seen")


def test_a_run_goes_on_only_in_a_folder_that_can_still_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()  # what stands for a file system that has become read-only: root may write anywhere
    folder = RunFolder(tmp_path)
    with (
        pytest.raises(CannotStart, match=r"^run_dir=.*Is a directory"),
        folder.locked(),
    ):
        pytest.fail("the folder was taken")


# -- a cluster of three nodes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen():
    """What `tests.system.placed` sees on a cluster of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    script = [sys.executable, "-m", "tests.system.placed"]
    shown = subprocess.run(script, cwd=settings.ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-3000:]
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.proof
def test_what_a_cluster_lacks_is_said_in_one_line_with_the_cure(seen):
    for lacking, said in {
        "label": "ray start --labels role=trainer",
        "gpu": r"cluster\.nodes_timeout_s=1: 0 .*\b1 GPUs .*\(0 of 1 learner\)",
        "room": r"\b3 .*\b5 CPUs .*\(2 of 4 rollout\)",
        "taken": r"cluster\.nodes_timeout_s=1: 3 CPUs .*\b1 .*\b2\b",
        "compiler": r"^rollout\.compile=true: .*no-compiler.*\(node [\d.]+\)",
        "folder": r"\(.*config\.yaml",
    }.items():
        assert re.search(said, seen["refused"][lacking]) and "\n" not in seen["refused"][lacking]


@pytest.mark.ray
@pytest.mark.proof
def test_a_cache_of_texts_that_nodes_do_not_share_is_noted_in_one_line(seen):
    (note,) = seen["texts"]["/proc/self/cwd/texts"]
    assert note.startswith("note: text_cache=/proc/self/cwd/texts ") and "\n" not in note
    assert seen["texts"]["shared"] == [] and seen["left_in_text_cache"] == []
    (note,) = seen["texts"]["/proc/texts"]
    assert note.startswith("note: text_cache=/proc/texts ") and "(" in note


@pytest.mark.ray
@pytest.mark.proof
def test_nodes_that_come_late_are_waited_for_aloud_once_per_change(seen):
    assert [re.findall(r"\d+|role=\w+", line) for line in seen["heard"]] == [
        ["3", "4", "role=rollout", "1", "3"], ["4", "4", "role=rollout", "2", "3"]
    ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.proof
def test_processes_go_where_their_labels_are_and_to_spot_nodes_while_there_is_room(seen):
    assert seen["learner"] == ["learner", "learner"]
    assert seen["rollout"] == ["on-demand", "on-demand", "spot"]
    assert seen["after one on the spot node was lost"] == "spot"


@pytest.mark.ray
@pytest.mark.proof
def test_processes_that_share_a_gpu_name_the_same_one(seen):
    halves, others = seen["gpus"][:2], seen["gpus"][2]
    assert halves[0] == halves[1] != others and len(others) == 1
    assert len({gpu for gpus in seen["gpus"] for gpu in gpus}) == 2
