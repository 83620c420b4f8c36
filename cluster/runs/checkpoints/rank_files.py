"""Write one checkpoint from several ranks: the folder of rank 0, and a receipt for the files of every other.

Ranks meet through the shared folder alone. A collective would hold up training, and pass its time-out on a slow disk.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.runs.checkpoints.checkpoint import Snapshot
from models.atomic_files import write_atomic

_PATIENCE_S = 600.0
"""Seconds without a change in the folder after which a rank is taken for lost."""
_POLL_S = 0.2
_RECEIPT = "rank_{:05d}.json"


class RankLost(RuntimeError):
    """Reports another rank whose files did not come: the group starts again, from the checkpoint before."""


@dataclass
class RankFiles:
    """Waits for what the other ranks of one checkpoint do, in the thread that writes this rank's files."""

    rank: int
    ranks: int
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set where another rank has failed: nobody waits any longer."""

    def write(self, folder: Path, snapshot: Snapshot) -> None:
        """Write the files of a rank other than 0, then their receipt. Raises OSError and RankLost."""
        partial = snapshot.partial(folder)
        self._wait(partial, partial.is_dir, "rank 0 is lost")
        checksums = snapshot.write_parts(partial)
        write_atomic(partial / _RECEIPT.format(self.rank), json.dumps(checksums).encode())

    def of_others(self, partial: Path) -> dict[str, str]:
        """Return the checksums of all files of the other ranks as soon as these are complete. Raises RankLost."""
        checksums: dict[str, str] = {}
        for rank in range(1, self.ranks):
            receipt = partial / _RECEIPT.format(rank)
            self._wait(partial, receipt.is_file, f"rank {rank} is lost")
            checksums |= json.loads(receipt.read_bytes())
            receipt.unlink()
        return checksums

    def _wait(self, partial: Path, ready: Callable[[], bool], otherwise: str) -> None:
        seen: list[object] | None = None
        since = time.monotonic()
        while not ready():
            if self.abandoned.wait(_POLL_S):
                raise RankLost("another rank failed; its own line says why")
            now: list[object] = []
            with suppress(OSError):
                # Listed anew: a name that was looked for too early stays absent in the cache of a network file system.
                now = [path.name for path in partial.parent.iterdir()]
                now += [path.stat().st_size for path in partial.iterdir()]
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > _PATIENCE_S:
                raise RankLost(f"{otherwise}: nothing has changed in {partial} for {_PATIENCE_S:.0f} s")
