"""Free memory is the machine's, or what the limits on this process's control group and those above it leave."""

from types import SimpleNamespace

import psutil
import pytest

from actors.generation import job
from actors.generation.free_memory import free_memory
from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from tests.actors.generation.test_job import config

NAMES = {
    "v2": ("", "memory.max", "memory.current", "inactive_file"),
    "v1": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1000 free bytes, and the control groups {path: (limit, used, droppable)} of a version."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))

    def make(version, groups, own="/pod/box"):
        mount, limit, used, field = NAMES[version]
        lines = {"v2": f"0::{own}\n", "v1": f"9:cpu,cpuacct:/else\n4:memory:{own}\n0::/\n"}
        (tmp_path / "cgroup").write_text(lines[version])
        for path, (most, taken, droppable) in groups.items():
            folder = tmp_path / "sys" / mount / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit).write_text(f"{most}\n")
            (folder / used).write_text(f"{taken}\n")
            (folder / "memory.stat").write_text(f"anon 1\n{field} {droppable}\n")
        return free_memory(tmp_path / "cgroup", tmp_path / "sys")

    return make


@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ({}, 1000), ({"pod/box": (600, 100, 0)}, 500), ({"pod/box": (600, 100, 40)}, 540),
        ({"pod/box": (2**63 - 4096, 100, 0)}, 1000), ({"pod": (300, 100, 0), "pod/box": (600, 0, 0)}, 200),
        ({"": (400, 50, 0)}, 350), ({"pod/box": (100, 300, 0)}, 0), ({"pod/other": (10, 0, 0)}, 1000),
    ],
)  # fmt: skip
def test_the_tightest_limit_of_the_own_group_and_those_above_counts(version, groups, free, machine):
    assert machine(version, groups) == free


def test_a_group_without_a_limit_leaves_the_machine_s_memory(machine):
    assert machine("v2", {"pod/box": ("max", 900, 0)}) == 1000


def test_a_machine_without_control_groups_has_its_free_memory(machine, tmp_path):
    assert free_memory(tmp_path / "none", tmp_path / "sys") == 1000


@pytest.mark.parametrize("given", [{}, {"height": 240, "width": 416}])
def test_too_little_memory_names_pixels_before_any_file_is_opened(given, monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(job, "_check_files", None)
    monkeypatch.setattr(job, "open_codec", None)
    keys = config(tmp_path, prompt=PROMPTS[0], **given)
    with pytest.raises(ConfigError) as error:
        job.open_job(keys)
    stride = keys.student.space_stride
    assert (error.value.key, error.value.value) == ("height", given.get("height", keys.student.height * stride))


def test_rows_of_a_preset_are_named_in_pixels(monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    keys = config(tmp_path)
    keys.student = type(keys.student)(model="wan_1_3b", height=60, width=104)
    with pytest.raises(ConfigError) as error:
        job.open_job(keys)
    assert (error.value.key, error.value.value) == ("height", 480)
