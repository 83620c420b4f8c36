"""Define a published version of the weights, and number versions."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cluster.supply.tensor_bytes import ByteViews, view_bytes, view_tensors
from models.atomic_files import write_atomic
from models.fingerprint import fingerprint
from models.records import Weights

_NUMBERS_PER_START = 10**9


@dataclass(frozen=True)
class WeightsVersion(Weights):
    """Holds weights for transport, pickled as byte views that all readers on a node share.

    Unpickled tensors lie in the object store: read them, do not write to them. The fingerprint takes the place of a
    checksum: CRC-32 would be seven times slower.
    """

    update: int = 0
    """Number of student updates before its publication."""

    @staticmethod
    def of(version: int, update: int, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> "WeightsVersion":
        """Take the fingerprint of `tensors` in `dtype`; tensors that have that dtype are not copied."""
        stored = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        return WeightsVersion(version, stored, fingerprint(stored), update)

    def __reduce__(self) -> tuple:
        return _from_views, (self.version, view_bytes(self.tensors), self.fingerprint, self.update)


def _from_views(version: int, views: ByteViews, fingerprint: int | None, update: int) -> WeightsVersion:
    return WeightsVersion(version, view_tensors(views), fingerprint, update)


def version_numbers(run_dir: str, history: Iterable[tuple[int, int]] = ()) -> Iterator[int]:
    """Yield ascending numbers, each unique over all starts of the run.

    A number is start * 10^9 + n: the n-th version since the `start`-th start of a learner (a command, or a group of
    ranks that Ray Train started again). 2000000017 is the 18th version of the third start. The file `last_version` of
    the run folder reserves all numbers of a start before the first of them is used, so no number comes twice, whatever
    is rolled back or killed, and nothing is written per version. `history`: the versions, each with its update, of the
    checkpoint that the run resumes from; all numbers are above them, also where the folder has lost the file.
    """
    file = Path(run_dir, "last_version")
    last = max([version for version, _ in history], default=-1)
    if file.is_file():
        last = max(last, int(file.read_text()))
    first = -(-(last + 1) // _NUMBERS_PER_START) * _NUMBERS_PER_START
    write_atomic(file, str(first + _NUMBERS_PER_START - 1).encode())
    yield from itertools.count(first)
