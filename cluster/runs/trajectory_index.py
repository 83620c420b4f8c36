"""Index teacher trajectories on disk: their origin, and the shard and position of each."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
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
    """Describes the origin of trajectories, except prompt and seed; a folder never mixes two origins."""

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
    """Type on disk: float32 or bfloat16."""
    text_encoder: str
    """Identity of the text encoder that embedded the prompts."""

    def difference(self, current: "TrajectoryOrigin") -> str | None:
        """Name the first configuration key in which `here` differs, with both values; None without one."""
        for name, key in _KEYS.items():
            theirs, ours = getattr(self, name), getattr(current, name)
            if theirs != ours:
                return f"another {key} ({theirs}, here {ours})"
        return None


@dataclass(frozen=True)
class TrajectoryEntry:
    """Locates one trajectory on disk."""

    number: int
    prompt: str
    seed: int
    shard: int
    position: int
    """Position in its shard."""
    checksum: bytes


@dataclass(frozen=True)
class Shard:
    """Lists the trajectories of one file."""

    size: int
    """Bytes of the file."""
    pairs: tuple[TrajectoryEntry, ...]


@dataclass(frozen=True)
class TrajectoryIndex:
    """Lists the shards of a folder."""

    origin: TrajectoryOrigin
    shards: Mapping[int, Shard]
    """Shards by number."""

    def entries(self) -> Iterator[TrajectoryEntry]:
        """Iterate over all trajectories on disk."""
        return (pair for shard in self.shards.values() for pair in shard.pairs)


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard by its number."""
    return folder / f"shard_{number:06d}.safetensors"


def checksum(*tensors: Tensor) -> bytes:
    """Hash the bytes of contiguous tensors on the CPU, one after the other."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for tensor in tensors:
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def encode(index: TrajectoryIndex) -> bytes:
    """Write a record for the origin, then one for each shard, each msgpack behind a checksum of its own."""
    records: list[dict[str, Any]] = [asdict(index.origin)]
    for number, shard in index.shards.items():
        pairs = [[pair.number, pair.prompt, pair.seed, pair.position, pair.checksum] for pair in shard.pairs]
        records.append({"shard": number, "size": shard.size, "pairs": pairs})
    packed = [msgpack.packb(record) for record in records]
    return b"".join(
        msgpack.packb([hashlib.blake2b(record, digest_size=_DIGEST_BYTES).digest(), record]) for record in packed
    )


def decode(content: bytes) -> tuple[TrajectoryIndex, bool]:
    """Read the index up to its first damaged record; returns whether that was all of it, too.

    Raises ValueError where even the origin cannot be read.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(content)))
    unpacker.feed(content)
    records = []
    try:
        for digest, packed in unpacker:
            if digest != hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest():
                break
            records.append(msgpack.unpackb(packed))
            end = unpacker.tell()
    except (UnpackException, ValueError, TypeError):  # bytes that are no records: the rest is damaged
        pass
    if not records or set(records[0]) != {field.name for field in fields(TrajectoryOrigin)}:
        raise ValueError("its first record is no origin")
    shards = {}
    for record in records[1:]:
        shard = record["shard"]
        pairs = (TrajectoryEntry(n, prompt, seed, shard, place, d) for n, prompt, seed, place, d in record["pairs"])
        shards[shard] = Shard(record["size"], tuple(pairs))
    return TrajectoryIndex(TrajectoryOrigin(**records[0]), shards), end == len(content)
