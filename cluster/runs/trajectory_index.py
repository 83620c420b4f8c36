"""The index of kept teacher trajectories: what made them, and where each of them lies."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import msgpack
import torch
from msgpack import UnpackException
from torch import Tensor

INDEX = "index.msgpack"
_DIGEST_BYTES = 8
_KEYS = {
    "teacher": "teacher",
    "text_encoder": "text_encoder",
    "solver_steps": "ode.solver_steps",
    "timesteps": "student.timesteps",
    "shift": "student.shift",
    "indices": "student.timesteps",
    "guidance": "ode.guidance",
    "negative_prompt": "prompt.negative",
    "shape": "student.horizon_frames, height or width",
    "dtype": "ode.dtype",
}


@dataclass(frozen=True)
class TrajectoryOrigin:
    """What a trajectory comes from, but for its prompt and seed: those of two origins are never mixed."""

    teacher: str
    """Fingerprint of the teacher's weights, hexadecimal."""
    solver_steps: int
    """Euler steps, the student's own levels among them."""
    timesteps: list[float]
    """The student's denoising steps before warping."""
    shift: float
    indices: list[int]
    """Steps of the solver whose states are kept; the end is -1."""
    guidance: float
    negative_prompt: str
    shape: list[int]
    """[K C H W]."""
    dtype: str
    """What is on disk: float32 or bfloat16."""
    text_encoder: str
    """Its identity: what the teacher read of a prompt."""

    @property
    def trajectory_bytes(self) -> int:
        """Bytes of one trajectory on disk."""
        return len(self.indices) * prod(self.shape) * getattr(torch, self.dtype).itemsize

    def difference(self, here: "TrajectoryOrigin") -> str | None:
        """The first configuration key in which `here` differs, with both values; None where nothing does."""
        for name, key in _KEYS.items():
            theirs, ours = getattr(self, name), getattr(here, name)
            if theirs != ours:
                return f"another {key} ({theirs}, here {ours})"
        return None


@dataclass(frozen=True)
class TrajectoryEntry:
    """One trajectory on disk."""

    number: int
    prompt: str
    seed: int
    shard: int
    position: int
    """Which of its shard's trajectories this is."""
    checksum: bytes


@dataclass(frozen=True)
class Shard:
    """One file of trajectories."""

    size: int
    """Bytes of the file."""
    pairs: tuple[TrajectoryEntry, ...]


@dataclass(frozen=True)
class TrajectoryIndex:
    """What a folder holds."""

    origin: TrajectoryOrigin
    shards: Mapping[int, Shard]
    """By number."""

    def entries(self) -> Iterator[TrajectoryEntry]:
        """All trajectories on disk."""
        return (pair for shard in self.shards.values() for pair in shard.pairs)


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of this number is, or would be."""
    return folder / f"shard_{number:06d}.safetensors"


def checksum(*tensors: Tensor) -> bytes:
    """Of the bytes of contiguous tensors on the CPU, one after the other."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for tensor in tensors:
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def encode(index: TrajectoryIndex) -> bytes:
    """A record for the origin, then one for each shard, each msgpack behind a checksum of its own."""
    records = [asdict(index.origin)]
    for number, shard in index.shards.items():
        pairs = [[pair.number, pair.prompt, pair.seed, pair.position, pair.checksum] for pair in shard.pairs]
        records.append({"shard": number, "size": shard.size, "pairs": pairs})
    return b"".join(_sealed(msgpack.packb(record)) for record in records)


def decode(content: bytes) -> tuple[TrajectoryIndex, bool]:
    """The index up to its first damaged record, and whether that was all of it.

    Raises ValueError where even the origin cannot be read.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(content)))
    unpacker.feed(content)
    records = []
    try:
        for digest, packed in unpacker:
            if digest != _digest(packed):
                break
            records.append(msgpack.unpackb(packed))
            end = unpacker.tell()
    except (UnpackException, ValueError, TypeError):  # bytes that are no records: what follows is damaged
        pass
    if not records or set(records[0]) != {field.name for field in fields(TrajectoryOrigin)}:
        raise ValueError("it does not say what made them")
    return TrajectoryIndex(TrajectoryOrigin(**records[0]), {r["shard"]: _shard(r) for r in records[1:]}), end == len(
        content
    )


def _shard(record: dict[str, Any]) -> Shard:
    pairs = (
        TrajectoryEntry(number, prompt, seed, record["shard"], position, digest)
        for number, prompt, seed, position, digest in record["pairs"]
    )
    return Shard(record["size"], tuple(pairs))


def _sealed(packed: bytes) -> bytes:
    return msgpack.packb([_digest(packed), packed])


def _digest(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest()
