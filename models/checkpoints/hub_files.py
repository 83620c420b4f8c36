"""Choose the files of a repository of weights that a command needs, by their names alone."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from models.checkpoints.containers import shards_by_tensor
from models.checkpoints.folders import (
    LORA_STEMS,
    NETWORK_STEMS,
    OTHER_PARTS,
    refuse_experts,
    several_sets,
    weights_among,
)
from models.checkpoints.original_files import original_name
from models.checkpoints.safetensors_files import first_names
from models.checkpoints.weight_containers import SHARD, all_shard_names
from models.errors import ConfigError

_PARTS = {
    "vae": ("vae",), "text_encoder": ("text_encoder", "tokenizer"), "lora": ("lora",),
    **dict.fromkeys(("teacher", "base", "checkpoint"), ("network", "vae", "text_encoder", "tokenizer")),
    **dict.fromkeys(("reward.learned.clip", "embeddings.clip", "embeddings.identity", "vbench.clip"), ("encoder",)),
    "reward.learned.hpsv3_weights": ("reward",), "reward.learned.videoalign_weights": ("everything",),
}  # fmt: skip
"""Parts that a key needs: of a teacher, base or checkpoint VAE and text encoder too, which are found beside it."""
_STEMS = {"lora": LORA_STEMS} | dict.fromkeys(("text_encoder", "encoder"), ("model", "pytorch_model"))
"""Names of a part's weights, where they are not those of networks."""
_PATTERNS = {
    "tokenizer": ("tokenizer/*", "google/umt5-xxl/*"), "reward": ("HPSv3.safetensors",), "everything": ("[!.]*",),
}  # fmt: skip
"""Files of a part that no pattern of weights finds: VideoAlign's own code knows its folder's names."""
UNCOUNTED = frozenset({"encoder", "everything"})
"""Parts that may lack a file in the cache without a sign of it."""
_ENCODER = re.compile(
    r"(config|preprocessor_config|(special_)?token\w*|vocab|added_tokens)\.json|merges\.txt|\w+\.model"
)
"""Files of an encoder of transformers beside its weights."""
_FOLDERS = {"network": "transformer", "vae": "vae", "text_encoder": "text_encoder"}
"""Folder of a part in a repository of diffusers."""
_INDEX = re.compile(r"(.+)(\.safetensors|\.bin)\.index(\.\w+)?\.json")


def needed_files(names: Sequence[str], key: str, given: str) -> dict[str, list[str]]:
    """Choose among the files `names` of the repository `given` those that `key` needs, by part; [] for an absent part.

    Raises ConfigError, naming `key`, where several networks lie there, and none is the usual one.
    """
    refuse_experts({name.partition("/")[0] for name in names if "/" in name}, key, given)
    return {part: _files_of_part(names, part, key, given) for part in _PARTS.get(key, ("network",))}


def missing_files(snapshot: Path, chosen: Sequence[str]) -> list[str]:
    """List the files of `chosen` that `snapshot` lacks, with the shards that an index or another shard names."""
    wanted = dict.fromkeys(chosen)
    for name in chosen:
        inside = PurePosixPath(name).parent
        if _INDEX.fullmatch(name) and (snapshot / name).is_file():
            try:
                shards = set(shards_by_tensor(snapshot / name, "hub").values())
            except ConfigError:  # half a file, or another one
                return [name]
            wanted |= dict.fromkeys(str(inside / shard) for shard in sorted(shards))
        else:
            wanted |= dict.fromkeys(all_shard_names(name))
    return [name for name in wanted if not (snapshot / name).is_file()]


def _files_of_part(names: Sequence[str], part: str, key: str, given: str) -> list[str]:
    """Choose the weights of one part, with their shards and configuration."""
    if part in _PATTERNS:
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _PATTERNS[part])]
    stems, root = _STEMS.get(part, NETWORK_STEMS), [name for name in names if "/" not in name]
    inside = _inside(names, _FOLDERS.get(part, part))
    if not inside and part in ("vae", "text_encoder") and (file := original_name(root, part)):
        return [file]
    folder = _FOLDERS[part] if inside else ""
    if not inside:
        if part not in ("network", "encoder", key):  # beside a network only in a place of its own
            return []
        inside = root
        if part == "network" and not weights_among(root, stems):
            folders = sorted({name.partition("/")[0] for name in names if name.count("/") == 1} - OTHER_PARTS)
            holding = [one for one in folders if weights_among(_inside(names, one), stems)]
            if len(holding) > 1:
                problem = f"holds weights in several folders: {first_names(holding)}"
                raise ConfigError(key, given, problem, f"write {key}=hf://owner/name/FOLDER, or a FILE of it")
            folder = holding[0] if holding else ""
            inside = _inside(names, folder) if holding else root
    found = weights_among(inside, stems)
    if several_sets(found):
        problem = f"holds several files of weights: {first_names(found)}"
        raise ConfigError(key, given, problem, f"write {key}=hf://owner/name/FILE")
    if not found:
        return []
    described = [name for name in ("config.json", "adapter_config.json") if name in inside]
    if part == "encoder":
        described = [name for name in inside if _ENCODER.fullmatch(name)]
    return [f"{folder}/{name}".lstrip("/") for name in (*described, *found, *_shards(found[0], inside))]


def _inside(names: Sequence[str], folder: str) -> list[str]:
    """List the files that lie in `folder` itself, under their names there."""
    inner = (name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/"))
    return [name for name in inner if "/" not in name]


def _shards(index: str, inside: Sequence[str]) -> list[str]:
    """List the shards of an index file; [] of any other file."""
    match = _INDEX.fullmatch(index)
    if match is None:
        return []
    variant = match[3] or ""
    shards = [name for name in inside if SHARD.fullmatch(name) and name.startswith(match[1])]
    return [
        name for name in shards if name.endswith(match[2]) and name.count(".") == 1 + bool(variant) and variant in name
    ]
