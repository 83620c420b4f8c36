"""Find weights that the user names: a path, or a repository of the Hugging Face hub, which is downloaded once."""

import re
from collections.abc import Sequence
from glob import escape
from os.path import isfile, lexists
from pathlib import Path

from models.errors import ConfigError
from models.user_paths import existing_path, user_path

_SCHEME = "hf://"
_PATIENCE_S = 10.0
"""Longest wait for the hub's first answer."""
_ID = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)")
_FILE = re.compile(r"\.(?:safetensors|pt|pth|bin|ckpt|gguf|json|sft)$")


def weights_path(given: str, key: str) -> Path:
    """Return the path of weights: `given`, or where the hub's cache holds owner/name or hf://owner/name/FILE.

    Files that `key` needs and the cache lacks are downloaded with progress. A broken connection resumes inside a file;
    a stopped command keeps whole files. A cached repository keeps its revision. Raises ConfigError, naming `key`, with
    what to download by hand.
    """
    path = user_path(given, key)
    match = _hub_id(given, path)
    if match is None:
        return snapshot_of(path)
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import get_session

    repository, inner = match[1], match[2].removeprefix("/")
    cache = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    snapshot, lacking = snapshot_of(cache), [inner]
    root = snapshot / inner
    single = _FILE.search(inner) is not None
    if root.is_file() and single:
        return root
    usable = False
    if root.is_dir() and snapshot != cache:
        lacking, usable = _lacking(root, key, given)
        if not lacking:
            return root
    try:
        if not constants.HF_HUB_OFFLINE:  # once, in seconds: the client itself tries again for half a minute
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
        if single:
            return Path(hf_hub_download(repository, inner))
        return _download(repository, inner, key, given, None if snapshot == cache else root)
    except (HTTPError, HFValidationError, OSError) as error:
        if usable:  # the first part is whole; VAE and text encoder may be given by keys of their own
            return root
        lacks = [] if snapshot == cache else [name for name in lacking if name]
        raise _not_downloaded(error.__cause__ or error, repository, inner, key, given, lacks) from None


def _not_downloaded(
    error: BaseException, repository: str, inner: str, key: str, given: str, lacks: Sequence[str]
) -> ConfigError:
    """Tell what the hub refused, or what to download by hand."""
    from huggingface_hub import constants

    reason = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        fix = "correct the name, or run hf auth login with an account that may read it"
        return ConfigError(key, given, f"the hub refuses it ({reason}, status {status})", fix)
    missing = f" (it lacks {', '.join(lacks[:3])})" if lacks else ""
    problem = f"lies neither here nor whole in the hub's cache {constants.HF_HUB_CACHE}{missing}"
    name, files = repository.rpartition("/")[2], f"{repository} {inner}".strip()
    fix = (
        f"run hf download {files} --local-dir {name} where there is a network, copy the folder {name} here, and write "
    )
    return ConfigError(key, given, f"{problem}, and was not downloaded ({reason})", f"{fix}{key}=its path")


def _download(repository: str, inner: str, key: str, given: str, cached: Path | None) -> Path:
    """Download the files that `key` needs, unless `cached`, the folder of an earlier revision, holds all of them."""
    from huggingface_hub import HfApi, snapshot_download

    from models.checkpoints.hub_files import missing_files, needed_files
    from models.checkpoints.safetensors_files import first_names

    prefix = f"{inner}/" if inner else ""
    revision = None
    if cached is not None:
        revision = (cached.parents[inner.count("/")] if inner else cached).name
    files = HfApi().list_repo_files(repository, revision=revision)
    parts = needed_files([name[len(prefix) :] for name in files if name.startswith(prefix)], key, given)
    if not next(iter(parts.values())):
        problem = f"holds no weights for {key}: it has {first_names(sorted(files)) or 'no files'}"
        raise ConfigError(key, given, problem, f"write {key}=hf://{repository}/FILE")
    wanted = [name for chosen in parts.values() for name in chosen]
    if cached is not None and not missing_files(cached, wanted):
        return cached
    patterns = [escape(prefix + name) for name in wanted]
    return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns), inner)


def _lacking(root: Path, key: str, given: str) -> tuple[list[str], bool]:
    """List the files that a cached repository lacks for `key`; and return whether its first part is whole."""
    from models.checkpoints.hub_files import UNCOUNTED, missing_files, needed_files

    held = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if not path.is_dir()]
    lacking = {
        part: missing_files(root, chosen) if chosen else [f"weights of part {part}"]
        for part, chosen in needed_files(held, key, given).items()
    }
    unsure = [f"perhaps more of part {part}" for part in lacking if part in UNCOUNTED]
    return [name for names in lacking.values() for name in names] + unsure, not next(iter(lacking.values()))


def names_hub(given: str, key: str) -> bool:
    """Return whether `given` names a repository of the hub, and no path. Raises ConfigError for an empty one."""
    return _hub_id(given, user_path(given, key)) is not None


def require_named(given: str, key: str) -> None:
    """Check that a path exists, or that a repository is named, without reading either. Raises ConfigError."""
    if not names_hub(given, key):
        existing_path(given, key)


def snapshot_commit(given: str, key: str) -> str | None:
    """Return the commit of the snapshot in the cache that weights of the hub mean; None for a path."""
    if _hub_id(given, user_path(given, key)) is None:
        return None
    parts = weights_path(given, key).parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def snapshot_of(path: Path) -> Path:
    """Return the newest snapshot of a folder of the hub's cache (models--owner--name); any other path unchanged."""
    main = path / "refs" / "main"
    if not isfile(main) or not (path / "snapshots").is_dir():  # False too for a name that is too long
        return path
    return path / "snapshots" / main.read_text().strip()


def _hub_id(given: str, path: Path) -> re.Match | None:
    """Match hf://owner/name/FILE, or the bare owner/name that is no path here: a mistyped path asks no network."""
    match = _ID.fullmatch(given.removeprefix(_SCHEME))
    if match is None or given.startswith(_SCHEME):
        return match
    first = given.partition("/")[0]
    local = lexists(path) or first in (".", "..") or Path(first).is_dir()
    return None if local or match[2] or _FILE.search(given) else match
