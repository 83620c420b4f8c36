"""A run folder belongs to one configuration, whatever keys have been added since it was made."""

import errno
import fcntl
import re

import pytest

import settings
from cluster.run_errors import CannotStart, RunFailed
from cluster.runs import run_folder
from cluster.runs.run_folder import RunFolder
from models.errors import ConfigError


@pytest.fixture
def made(tmp_path):
    """A claimed run folder: its configuration, its config.yaml."""
    config = settings.load([f"run_dir={tmp_path}/run"])
    RunFolder(config.run_dir).claim(config)
    return config, tmp_path / "run/config.yaml"


def test_a_key_that_was_added_since_has_its_default_in_an_older_folder(made):
    config, file = made
    older, count = re.subn(r"^seed: 0\n", "", file.read_text(), flags=re.MULTILINE)
    assert count
    file.write_text(older)
    RunFolder(config.run_dir).claim(config)
    with pytest.raises(ConfigError, match=r"\bseed=0") as caught:
        RunFolder(config.run_dir).claim(settings.load([f"run_dir={config.run_dir}", "seed=1"]))
    assert caught.value.key == "run_dir"


@pytest.mark.parametrize(("head", "commit"), [("# commit abc123 with changes\n", "abc123"), ("", "25145b3")])
def test_a_folder_with_a_key_of_an_older_layout_is_refused_with_the_commit_that_reads_it(made, head, commit):
    config, file = made
    plain = re.sub(r"^# commit .*\n", "", file.read_text())
    file.write_text(f"{head}{plain}forgotten: 1\n")
    with pytest.raises(ConfigError) as caught:
        RunFolder(config.run_dir).claim(config)
    assert caught.value.key == "run_dir"
    assert all(fact in caught.value.problem + caught.value.fix for fact in ("forgotten", commit))


@pytest.mark.parametrize("lock", ["locked", "written_alone"])
@pytest.mark.parametrize("fault", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_mount_that_cannot_lock_is_one_line_for_commands_and_ranks(made, monkeypatch, lock, fault):
    def flock(*_):
        raise OSError(fault, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CannotStart, match=r"^run_dir=.*flock"), getattr(RunFolder(made[0].run_dir), lock)():
        pass


def test_a_rank_waits_for_the_writer_before_it_and_gives_up_in_one_line(made, monkeypatch):
    monkeypatch.setattr(run_folder, "_HAND_OVER_S", 0.01)
    monkeypatch.setattr(run_folder, "_POLL_S", 0.001)
    with (
        RunFolder(made[0].run_dir).written_alone(),
        pytest.raises(RunFailed),
        RunFolder(made[0].run_dir).written_alone(),
    ):
        pass
    with RunFolder(made[0].run_dir).written_alone():
        pass
