"""Find weights that the user names: a path, or a repository of the Hugging Face hub, which is downloaded once."""

import re
from pathlib import Path

from models.errors import ConfigError
from models.user_paths import user_path

_SCHEME = "hf://"
_ID = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)")
_FILE = re.compile(r"\.(?:safetensors|pt|pth|bin|ckpt|gguf|json|sft)$")
_WHOLE = (
    "*.json", "*.safetensors", "*.bin", "*.pth", "*.pt", "tokenizer/*", "google/*", "transformer/*", "vae/*",
    "text_encoder/*",
)  # fmt: skip
"""Files of a repository of networks that are downloaded."""
_LORA = ("pytorch_lora_weights.*", "adapter_model.*", "adapter_config.json")
"""Files of a repository of a LoRA: one that holds many is given with the name of the file."""


def weights_path(given: str, key: str) -> Path:
    """Return the path of weights: `given`, or where the hub's cache holds owner/name or hf://owner/name/FILE.

    Missing files are downloaded with progress, and a stopped download resumes. Raises ConfigError, naming `key`, with
    what to download by hand where the hub cannot be reached.
    """
    path = user_path(given, key)
    match = _hub_id(given, path)
    if match is None:
        return snapshot_of(path)
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    repository, inner = match[1], match[2].removeprefix("/")
    wanted = [f"{inner}/*"] if inner else list(_LORA if key == "lora" else _WHOLE)
    reason = ""
    for cached_only in (True, False):
        try:
            if _FILE.search(inner):
                return Path(hf_hub_download(repository, inner, local_files_only=cached_only))
            return Path(snapshot_download(repository, allow_patterns=wanted, local_files_only=cached_only), inner)
        except (HTTPError, HFValidationError, OSError) as error:
            reason = type(error.__cause__ or error).__name__
    problem = f"lies neither here nor in the hub's cache {constants.HF_HUB_CACHE}, and was not downloaded ({reason})"
    name = repository.rpartition("/")[2]
    fix = f"run hf download {f'{repository} {inner}'.strip()} --local-dir {name} where there is a network, copy the "
    raise ConfigError(key, given, problem, f"{fix}folder {name} here, and write {key}=its path")


def snapshot_commit(given: str, key: str) -> str | None:
    """Return the commit of the snapshot in the cache that weights of the hub mean; None for a path."""
    if _hub_id(given, user_path(given, key)) is None:
        return None
    parts = weights_path(given, key).parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def snapshot_of(path: Path) -> Path:
    """Return the newest snapshot of a folder of the hub's cache (models--owner--name); any other path unchanged."""
    main = path / "refs" / "main"
    if not main.is_file() or not (path / "snapshots").is_dir():
        return path
    return path / "snapshots" / main.read_text().strip()


def _hub_id(given: str, path: Path) -> re.Match | None:
    """Match hf://owner/name/FILE, or the bare owner/name that is no path here: a mistyped path asks no network."""
    match = _ID.fullmatch(given.removeprefix(_SCHEME))
    if match is None or given.startswith(_SCHEME):
        return match
    first = given.partition("/")[0]
    local = path.exists() or path.is_symlink() or first in (".", "..") or Path(first).is_dir()
    return None if local or match[2] or _FILE.search(given) else match
