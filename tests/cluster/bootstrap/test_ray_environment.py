"""A temporary folder that Ray could not use is refused by the name of its variable, before anything starts."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ray._private.utils import validate_socket_filepath

from cluster.bootstrap.ray_environment import settle_allocator
from cluster.config.cluster_config import ClusterConfig
from cluster.launch import reach
from models.errors import ConfigError

SOCKET = "ray/session_2026-11-30_07-18-13_821436_4194304/sockets/plasma_store"


@pytest.fixture
def folder(monkeypatch):
    """A function that makes a folder whose path has a given number of bytes."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with TemporaryDirectory(dir="/tmp") as parent:
        yield lambda length: str(Path(parent, "a" * (length - len(parent) - 1)))


def refusal() -> ConfigError:
    with pytest.raises(ConfigError) as error:
        reach(ClusterConfig())
    return error.value


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_the_longest_folder_that_ray_takes_is_taken_and_one_byte_more_is_refused(folder, name, monkeypatch):
    most = 107 - len(f"/{SOCKET}")
    validate_socket_filepath(f"{folder(most)}/{SOCKET}")
    monkeypatch.setenv("TMPDIR", "/" + "x" * 200)  # RAY_TMPDIR counts before it
    monkeypatch.setenv(name, f"{folder(most)}/")
    reach(ClusterConfig())
    monkeypatch.setenv(name, folder(most + 1))
    with pytest.raises(OSError, match="107"):
        validate_socket_filepath(f"{folder(most + 1)}/{SOCKET}")
    assert refusal().key == name and not Path(folder(most + 1)).exists()


def test_a_folder_that_cannot_be_written_is_refused(folder, monkeypatch):
    Path(folder(30)).write_text("a file")
    monkeypatch.setenv("TMPDIR", folder(30))
    assert refusal().key == "TMPDIR"


@pytest.mark.parametrize("own", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_allocator_grows_segments_unless_the_user_configures_it(own):
    environment = {own: "max_split_size_mb:128"}
    settle_allocator(environment)
    assert environment == {own: "max_split_size_mb:128"}
    unset = {}
    settle_allocator(unset)
    assert unset == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
