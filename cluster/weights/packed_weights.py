"""Weights between processes."""

from dataclasses import dataclass

from cluster.supply.tensor_bytes import ByteViews, view_bytes, view_tensors
from models.fingerprint import PublishedWeights, fingerprint
from models.records import Weights


@dataclass(frozen=True)
class PackedWeights:
    """A version as bytes. The fingerprint takes the place of a checksum: CRC-32 would be seven times slower."""

    version: int
    views: ByteViews
    fingerprint: int
    update: int
    """Updates of the student that it was published after."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(chunk.nbytes for chunk in self.views.chunks)


def pack(weights: Weights, update: int = 0) -> PackedWeights:
    """The same bytes, viewed as uint8; any dtype."""
    return PackedWeights(weights.version, view_bytes(weights.tensors), fingerprint(weights.tensors), update)


def unpack(packed: PackedWeights) -> PublishedWeights:
    """Tensors that share the packed bytes: read them, do not write to them."""
    return PublishedWeights(packed.version, view_tensors(packed.views), packed.fingerprint)
