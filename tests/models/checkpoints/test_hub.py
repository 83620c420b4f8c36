"""Repositories of the hub come from its cache; without it one line tells what to download and where to put it."""

import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from models.checkpoints.hub import names_hub, require_named, snapshot_commit, weights_path
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
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs/main").write_text("a" * 40)
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        shards = [name for name in NETWORK if "-of-" in name]
        index = json.dumps({"weight_map": {str(i): Path(name).name for i, name in enumerate(shards)}})
        (snapshot / file).write_text(index if file.endswith("index.json") else "x")
    return snapshot


NETWORK = [
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
]  # fmt: skip
VAE = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
TEXT = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/spiece.model"]
NEEDED = [*NETWORK, *VAE, *TEXT]
DIFFUSERS = [
    *NEEDED, "README.md", "model_index.json", "samples/x.safetensors", "assets/video.mp4", "extra.bin",
    "transformer/diffusion_pytorch_model.fp16.safetensors", "text_encoder/pytorch_model.bin",
    "transformer/diffusion_pytorch_model.bin", "transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors", "image_encoder/model.safetensors",
]  # fmt: skip
ORIGINAL = [
    "config.json", "diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl/spiece.model", "google/umt5-xxl/tokenizer.json",
]  # fmt: skip
ENCODER = [
    "config.json", "preprocessor_config.json", "merges.txt", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json", "pytorch_model.bin",
]  # fmt: skip
OPENAI = [*ENCODER, "README.md", ".gitattributes", "flax_model.msgpack", "tf_model.h5"]
REWARD = ["README.md", "model_config.json", "checkpoint-11352/model.pth"]
LORA = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"]


class FakeHub:
    """Lists one repository, and writes the files that match into the cache."""

    def __init__(self, cache: Path, files: list[str]):
        self.cache, self.files, self.asked, self.revisions = cache, files, [], []

    def list_repo_files(self, repository, revision=None):
        self.revisions.append(revision)
        return self.files

    def snapshot_download(self, repository, revision=None, allow_patterns=None):
        self.revisions.append(revision)
        self.asked.append(
            [name for name in self.files if any(fnmatchcase(name, pattern) for pattern in allow_patterns)]
        )
        return str(cached(self.cache, repository, *self.asked[-1]))


@pytest.fixture
def online(cache, monkeypatch):
    """A hub that is reached, of the files that the call names."""

    def make(files):
        hub = FakeHub(cache, files)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        return hub

    return make


@pytest.mark.parametrize(
    ("files", "key", "wanted"),
    [
        (DIFFUSERS, "teacher", NEEDED), (DIFFUSERS, "init", NETWORK), (DIFFUSERS, "vae", VAE),
        (DIFFUSERS, "text_encoder", TEXT), ([*ORIGINAL, "x.safetensors", "examples/y.pth"], "teacher", ORIGINAL),
        (ORIGINAL, "vae", ["Wan2.1_VAE.pth"]), (LORA, "lora", LORA[:2]),
        (["README.md", "checkpoints/dmd.pt", "a/b/c.pt"], "init", ["checkpoints/dmd.pt"]),
        (OPENAI, "reward.learned.clip", ENCODER), (OPENAI, "embeddings.clip", ENCODER),
        ([*OPENAI, "model.safetensors"], "embeddings.identity", [*ENCODER[:-1], "model.safetensors"]),
        (["HPSv3.safetensors", "README.md", "a.png"], "reward.learned.hpsv3_weights", ["HPSv3.safetensors"]),
        ([*REWARD, ".gitattributes"], "reward.learned.videoalign_weights", REWARD),
    ],
)  # fmt: skip
def test_a_download_takes_the_files_that_the_key_needs_and_no_others(files, key, wanted, online, cache):
    hub = online(files)
    path = weights_path("owner/name", key)
    assert [sorted(asked) for asked in hub.asked] == [sorted(wanted)]
    assert all((path / name).is_file() for name in wanted)


@pytest.mark.parametrize("lost", [*NETWORK[2:], VAE[1], TEXT[1], TEXT[2]])
def test_a_partial_cache_is_completed(lost, online, cache):
    snapshot = cached(cache, "owner/name", *(name for name in NEEDED if name != lost))
    hub = online(DIFFUSERS)
    assert weights_path("owner/name", "teacher") == snapshot
    assert len(hub.asked) == 1 and (snapshot / lost).is_file()


def test_a_whole_cache_asks_no_network(cache, monkeypatch):
    snapshot = cached(cache, "owner/name", *NEEDED)
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert weights_path("owner/name", "teacher") == snapshot


@pytest.mark.parametrize(
    ("files", "lost", "key"),
    [(ENCODER, "vocab.json", "reward.learned.clip"), (REWARD, REWARD[-1], "reward.learned.videoalign_weights")],
)
def test_a_folder_without_a_list_of_its_files_is_completed_or_taken_as_it_is(files, lost, key, online, cache):
    snapshot = cached(cache, "owner/name", *(name for name in files if name != lost))
    assert weights_path("owner/name", key) == snapshot, "offline"
    hub = online(files)
    assert weights_path("owner/name", key) == snapshot
    assert len(hub.asked) == 1 and (snapshot / lost).is_file()


@pytest.mark.parametrize("lost", NETWORK[2:])
def test_offline_the_missing_shard_of_a_cached_network_is_named(lost, cache):
    cached(cache, "owner/name", *(name for name in NEEDED if name != lost))
    with pytest.raises(ConfigError) as error:
        weights_path("owner/name", "teacher")
    assert error.value.key == "teacher" and lost in error.value.problem


def test_offline_a_whole_network_stands_for_itself(cache):
    snapshot = cached(cache, "owner/name", *NETWORK)
    assert weights_path("owner/name", "teacher") == snapshot, "vae= and text_encoder= may name theirs"


@pytest.mark.parametrize(
    "files", [["a.safetensors", "b.safetensors"], ["a/x.pt", "b/x.pt"], ["README.md"], [*NETWORK, "transformer_2/x.pt"]]
)
def test_a_repository_of_no_network_or_several_is_not_downloaded(files, online):
    hub = online(files)
    with pytest.raises(ConfigError) as error:
        weights_path("owner/name", "init")
    assert error.value.key == "init" and not hub.asked


def test_a_repository_in_the_cache_is_a_folder_and_its_files_are_paths(cache, capsys):
    files = [name for name in DIFFUSERS if name in NEEDED]
    snapshot = cached(cache, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", *files, "lora/x.safetensors")
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert weights_path(name, "checkpoint") == snapshot
    assert weights_path(f"hf://{name}/transformer", "checkpoint") == snapshot / "transformer"
    assert weights_path(f"hf://{name}/lora/x.safetensors", "lora") == snapshot / "lora/x.safetensors"
    assert weights_path(str(snapshot.parents[1]), "checkpoint") == snapshot, "the folder of the cache itself"
    assert capsys.readouterr().err == ""


BRANCH, REVIEW = "b" * 40, "c" * 40


@pytest.mark.parametrize(
    ("given", "commit", "inner"),
    [
        ("owner/name", "a" * 40, ""), ("owner/name@main", "a" * 40, ""), ("owner/name@dev", BRANCH, ""),
        (f"owner/name@{BRANCH}", BRANCH, ""), ("owner/name@refs/pr/3", REVIEW, ""), ("hf://owner/name/", "a" * 40, ""),
        ("hf://owner/name@dev/transformer", BRANCH, "transformer"),
        ("https://huggingface.co/owner/name", "a" * 40, ""), ("huggingface.co/owner/name/", "a" * 40, ""),
        ("https://huggingface.co/owner/name/tree/dev", BRANCH, ""), ("HTTP://hf.co/owner/name?x=1#y", "a" * 40, ""),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3/transformer", REVIEW, "transformer"),
        ("https://huggingface.co/owner/name/blob/main/transformer/x%20y.pt", "a" * 40, "transformer/x y.pt"),
        ("https://www.huggingface.co/owner/name/resolve/dev/a.safetensors?download=true", BRANCH, "a.safetensors"),
    ],
)  # fmt: skip
def test_a_revision_and_the_address_of_a_page_mean_their_snapshot_and_file(cache, given, commit, inner):
    snapshots = cached(cache, "owner/name", *NEEDED, "transformer/x y.pt", "a.safetensors").parent
    references = snapshots.parent / "refs"
    (references / "refs/pr").mkdir(parents=True)
    for name, written in (("dev", BRANCH), ("refs/pr/3", REVIEW)):
        (references / name).write_text(written)
        shutil.copytree(snapshots / ("a" * 40), snapshots / written)
    assert weights_path(given, "checkpoint") == snapshots / commit / inner
    assert snapshot_commit(given, "checkpoint") == commit


@pytest.mark.parametrize("given", ["owner/name@dev", "https://huggingface.co/owner/name/tree/dev"])
def test_a_revision_is_downloaded_and_named_where_it_cannot_be(given, online, cache):
    cached(cache, "owner/name", *NEEDED)  # the main branch, which is not what was asked for
    with pytest.raises(ConfigError) as error:
        weights_path(given, "checkpoint")
    assert "owner/name --revision dev" in error.value.fix
    hub = online(DIFFUSERS)
    weights_path(given, "checkpoint")
    assert hub.revisions == ["dev", "dev"]


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("hf://owner", "owner/name"), ("hf://", "owner/name"), ("hf://owner/name/../x.pt", "owner/name"),
        ("https://huggingface.co/owner", "owner/name"),
        ("https://huggingface.co/datasets/owner/name", "owner/name"), ("hf://datasets/owner", "owner/name"),
        ("https://huggingface.co/owner/name/discussions/3", "owner/name"),
        ("https://example.com/x.safetensors", "download it"), ("s3://bucket/x.pt", "download it"),
    ],
)  # fmt: skip
def test_an_address_of_no_repository_is_refused_with_what_to_write(cache, given, cure):
    for ask in (weights_path, names_hub, require_named):
        with pytest.raises(ConfigError) as error:
            ask(given, "init")
        assert (error.value.key, error.value.value) == ("init", given) and cure in error.value.fix


def test_several_loras_without_brackets_are_shown_with_them(cache):
    with pytest.raises(ConfigError) as error:
        require_named("a.pt,owner/name", "lora")
    assert error.value.key == "lora" and "'lora=[a.pt,owner/name]'" in error.value.fix
    Path("a.pt,owner").mkdir()
    Path("a.pt,owner/name").touch()
    require_named("a.pt,owner/name", "lora")


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
