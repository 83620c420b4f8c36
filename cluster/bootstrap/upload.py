"""Measure the upload of `ray job submit --working-dir`, as Ray packs it."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster.planning.units import with_unit
from models.errors import ConfigError

_LARGEST = 3
UPLOAD_FIX = "move the largest parts away, or name them in .rayignore"


@dataclass(frozen=True)
class Upload:
    """Counts the files and bytes of a folder that Ray would send. Zip's few bytes per file are left out."""

    files: int
    size: int
    """Bytes."""
    parts: dict[str, int]
    """Bytes by file or folder at the top."""
    limit: int
    """Bytes that Ray's job server accepts at most."""

    @property
    def too_large(self) -> str | None:
        """Name the largest parts, in a line, if Ray would refuse the upload."""
        if self.size <= self.limit:
            return None
        largest = sorted(self.parts, key=self.parts.__getitem__, reverse=True)[:_LARGEST]
        named = ", ".join(f"{name} ({self.parts[name] / 2**20:.0f} MiB)" for name in largest)
        return (
            f"the upload of this folder has {self.size / 2**20:.0f} MiB, and Ray takes {self.limit / 2**20:.0f}; the "
            f"largest parts are {named}"
        )


def upload_of(folder: Path) -> Upload:
    """Measure `folder` by Ray's own rules: .gitignore and .rayignore, at every depth."""
    # Private, but any second reading of these rules would be a guess; only now, because ray takes seconds to import.
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import _dir_travel

    sizes: Counter[str] = Counter()
    counted = 0

    def count(path: Path) -> None:
        nonlocal counted
        if path.is_file():
            counted += 1
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size

    quiet = logging.getLogger(f"{__name__}.ray")
    quiet.setLevel(logging.WARNING)
    _dir_travel(folder, [], count, include_gitignore=True, logger=quiet)
    return Upload(counted, sizes.total(), dict(sizes), DASHBOARD_CLIENT_MAX_SIZE)


def upload_lines(folder: Path, elsewhere: bool) -> list[str]:
    """Describe the upload for a dry run. Raises ConfigError for one that Ray would refuse, if it goes `elsewhere`."""
    upload = upload_of(folder)
    if upload.too_large and elsewhere:
        raise ConfigError("cluster", None, upload.too_large, UPLOAD_FIX)
    text = ["", "Upload of ray job submit --working-dir ."]
    text.append(f"  {upload.files} files, {with_unit(upload.size, 'B')} of Ray's {with_unit(upload.limit, 'B')}")
    return text + ([f"  warning: {upload.too_large}; {UPLOAD_FIX}"] if upload.too_large else [])
