"""Repositories of the hub come from its cache; without it one line tells what to download and where to put it."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from models.checkpoints.hub import weights_path
from models.errors import ConfigError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the hub on a machine without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(cache: Path, repository: str, *files: str) -> Path:
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / ("a" * 40)
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("a" * 40)
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).write_text("x")
    return snapshot


def test_a_repository_in_the_cache_is_a_folder_and_its_files_are_paths(cache, capsys):
    snapshot = cached(cache, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer/config.json", "lora/x.safetensors")
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert weights_path(name, "checkpoint") == snapshot
    assert weights_path(f"hf://{name}/transformer", "checkpoint") == snapshot / "transformer"
    assert weights_path(f"hf://{name}/lora/x.safetensors", "lora") == snapshot / "lora/x.safetensors"
    assert weights_path(str(snapshot.parents[1]), "checkpoint") == snapshot, "the folder of the cache itself"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["owner/name", "hf://owner/name/x.safetensors"])
def test_without_network_a_line_tells_what_to_download_and_where_to_put_it(cache, given):
    with pytest.raises(ConfigError) as error:
        weights_path(given, "checkpoint")
    assert (error.value.key, error.value.value) == ("checkpoint", given) and "\n" not in str(error.value)
    assert str(cache) in error.value.problem
    assert "hf download owner/name" in error.value.fix and "checkpoint=" in error.value.fix


@pytest.mark.parametrize(
    "given", ["runs/x.safetensors", "runs/tiny/ode", "./a/b", "../a", "/a/b", "here/name", "name", "assets/tiny/w.pt"]
)
def test_a_path_is_never_looked_for_in_the_network(cache, given, capsys):
    Path("here").mkdir()
    assert weights_path(given, "init") == Path(given) and capsys.readouterr().err == ""
