"""The hub's real client downloads from a hub on loopback: it picks files, shows progress, and resumes."""

import pytest
from huggingface_hub import constants

from models.checkpoints.hub import weights_path
from models.errors import ConfigError
from tests.fakes.hub_server import hub_server

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {"config.json": b"{}", WEIGHTS: bytes(range(256)) * 2**16, "README.md": b"text", "samples.bin": b"x"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub on loopback that the client of this process knows, with an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with hub_server(FILES) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False,
                            "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": True}.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        yield server


def test_a_broken_connection_resumes_where_it_broke_and_progress_is_shown(server, capsys):
    server.cut_at = 12 * 2**20
    snapshot = weights_path("owner/name", "init")
    assert (snapshot / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert server.ranges == [f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-"], "whole chunks are kept"
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", WEIGHTS]
    assert "100%" in capsys.readouterr().err


def test_a_stopped_download_is_one_line_and_the_next_keeps_whole_files(server):
    server.refused = WEIGHTS
    with pytest.raises(ConfigError) as error:
        weights_path("owner/name", "init")
    assert error.value.key == "init" and "\n" not in str(error.value)
    assert "hf auth login" in error.value.fix
    server.refused, server.sent[:] = "", []
    assert (weights_path("owner/name", "init") / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert server.sent == [WEIGHTS], "config.json was there"
