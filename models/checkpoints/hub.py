"""Find weights that the user names: a path, or a repository of the Hugging Face hub, which is downloaded once."""

import re
from collections.abc import Sequence
from glob import escape
from os.path import isdir, isfile, lexists
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from models.checkpoints.weight_containers import WEIGHT_ENDINGS
from models.errors import ConfigError
from models.user_paths import existing_path, user_path

_SCHEME = "hf://"
_PATIENCE_S = 10.0
"""Longest wait for the hub's first answer."""
_NAME, _REVISION = r"(?P<repository>[\w.-]+/[\w.-]+)", r"(?P<revision>refs/pr/\d+|[\w.-]+)"
_ID = re.compile(rf"{_NAME}(?:@{_REVISION})?(?P<inner>(?:/[^/]+)*)/?")
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/+", re.IGNORECASE)
_PAGE = re.compile(rf"{_NAME}(?:/(?:blob|resolve|raw|tree)/{_REVISION}(?P<inner>(?:/[^/]+)*))?/?")
"""Path of a page of the hub: of a repository, a folder in it, or a file."""
_NO_WEIGHTS = ("datasets/", "spaces/", "docs/", "papers/", "collections/")
"""Beginnings of the paths of other pages of the hub."""


class _Repository(NamedTuple):
    """Names a repository of the hub, and what is meant in it."""

    name: str
    """owner/name."""
    revision: str
    """Branch, tag or commit."""
    inner: str
    """File or folder; empty for all of it."""


def weights_path(given: str, key: str) -> Path:
    """Return the path of weights: `given`, or where the hub's cache holds a repository (`_repository_of`).

    Files that `key` needs and the cache lacks are downloaded with progress. A broken connection resumes inside a file;
    a stopped command keeps whole files. A cached repository keeps its revision. Raises ConfigError, naming `key`, with
    what to download by hand.
    """
    named = _repository_of(given, key)
    if named is None:
        return snapshot_of(user_path(given, key))
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import get_session

    inner = named.inner
    cache = Path(constants.HF_HUB_CACHE, f"models--{named.name.replace('/', '--')}")
    snapshot, lacking = snapshot_of(cache, named.revision), [inner]
    root = snapshot / inner
    single = inner.endswith((*WEIGHT_ENDINGS, ".json"))
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
            return Path(hf_hub_download(named.name, inner, revision=named.revision))
        return _download(named, key, given, None if snapshot == cache else root)
    except (HTTPError, HFValidationError, OSError) as error:
        if usable:  # the first part is whole; VAE and text encoder may be given by keys of their own
            return root
        lacks = [] if snapshot == cache else [name for name in lacking if name]
        raise _not_downloaded(error.__cause__ or error, named, key, given, lacks) from None


def _not_downloaded(
    error: BaseException, named: _Repository, key: str, given: str, lacks: Sequence[str]
) -> ConfigError:
    """Tell what the hub refused, or what to download by hand."""
    from huggingface_hub import constants

    reason = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        fix = "correct name and revision, or run hf auth login with an account that may read it"
        return ConfigError(key, given, f"the hub refuses it ({reason}, status {status})", fix)
    missing = f" (it lacks {', '.join(lacks[:3])})" if lacks else ""
    problem = f"lies neither here nor whole in the hub's cache {constants.HF_HUB_CACHE}{missing}"
    name, files = named.name.rpartition("/")[2], f"{named.name} {named.inner}".strip()
    files += f" --revision {named.revision}" if named.revision != "main" else ""
    fix = (
        f"run hf download {files} --local-dir {name} where there is a network, copy the folder {name} here, and write "
    )
    return ConfigError(key, given, f"{problem}, and was not downloaded ({reason})", f"{fix}{key}=its path")


def _download(named: _Repository, key: str, given: str, cached: Path | None) -> Path:
    """Download the files that `key` needs, unless `cached`, the folder of an earlier revision, holds all of them."""
    from huggingface_hub import HfApi, snapshot_download

    from models.checkpoints.hub_files import missing_files, needed_files
    from models.checkpoints.safetensors_files import first_names

    repository, revision, inner = named
    prefix = f"{inner}/" if inner else ""
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
    """Return whether `given` names a repository of the hub, and no path. Raises ConfigError for neither."""
    return _repository_of(given, key) is not None


def require_named(given: str, key: str) -> None:
    """Check that a path exists, or that a repository is named, without reading either. Raises ConfigError."""
    if names_hub(given, key):
        return
    if key == "lora" and "," in given and not lexists(user_path(given, key)):
        raise ConfigError(key, given, "there is no such file or folder", f"write 'lora=[{given}]' for several LoRAs")
    existing_path(given, key)


def snapshot_commit(given: str, key: str) -> str | None:
    """Return the commit of the snapshot in the cache that weights of the hub mean; None for a path."""
    if not names_hub(given, key):
        return None
    parts = weights_path(given, key).parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def snapshot_of(path: Path, revision: str = "main") -> Path:
    """Return the snapshot of a branch, tag or commit in a folder of the hub's cache (models--owner--name).

    Any other path, and a folder without that revision, come back unchanged.
    """
    reference, snapshots = path / "refs" / revision, path / "snapshots"
    if isfile(reference) and isdir(snapshots):  # False too for a name that is too long
        return snapshots / reference.read_text().strip()
    return snapshots / revision if isdir(snapshots / revision) else path


def _repository_of(given: str, key: str) -> _Repository | None:
    """Read owner/name, with @revision, hf:// and a file inside, or the address of a page of the hub; None for a path.

    A mistyped path asks no network. Raises ConfigError, naming `key`, for an address of no repository.
    """
    path = user_path(given, key)
    page, text = _HOST.match(given), given.removeprefix(_SCHEME)
    if page is not None and not lexists(path):
        address = unquote(urlsplit(given[page.end() :]).path)
        match = _PAGE.fullmatch(address)
    elif text != given:
        match = _ID.fullmatch(text)
    elif "://" in given and not lexists(path):
        problem = "it is an address outside the Hugging Face hub, from which nothing is downloaded"
        raise ConfigError(key, given, problem, f"download it, and write {key}=its path")
    else:
        match, first = _ID.fullmatch(given), given.partition("/")[0]
        local = lexists(path) or first in (".", "..") or isdir(first)
        if match is None or local or match["inner"] or given.endswith((*WEIGHT_ENDINGS, ".json")):
            return None
    if match is None or match["repository"].startswith(_NO_WEIGHTS) or ".." in (match["inner"] or "").split("/"):
        fix = f"write {key}=owner/name, or {key}=hf://owner/name/FILE"
        raise ConfigError(key, given, "it names no repository of weights on the Hugging Face hub", fix)
    return _Repository(match["repository"], match["revision"] or "main", (match["inner"] or "").strip("/"))
