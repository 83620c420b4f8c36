"""What travels between actors, supply and learner: a header that is ordered, and a payload that is opened once.

    actor process            coordinator process                    learner rank
    -------------            -------------------                    ------------
    item
      |  seal: finite? digests
      +--> header ---------> validate against the plan,
      |                      order, count, score ----- header ----> open_item: layout, digests, finite?
      +--> payload           holds the reference ----- reference -> bytes of the node's store, read in place
                                                                      |
                                                                    item, or BadWindow -> the window is made again

Inline the same calls run in one process, and the payload stands in the header itself.

Example:
    header, payload = seal(window)                      # in the actor; raises BadWindow
    header = replace(header, payload=reference)         # by the receiver: any object that leads to the payload
    window = open_item(header, payload)                 # in the learner; raises BadWindow
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from cluster.supply.tensor_bytes import ByteViews, view_bytes, view_tensors
from models.records import Group, GroupPlan, MadeBlock, Progress, Rollout, Trajectory, Window, WindowPlan

Item = Window | Group | Trajectory | MadeBlock | Progress
State = tuple[dict[str, Tensor], dict[str, Any]]
"""For a checkpoint: tensors by name, and the plain rest."""
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape by tensor."""

_KINDS = {kind.__name__: kind for kind in (Window, Group, Trajectory, MadeBlock, Progress)}
_CLEAN = {"Window": ("context", "latents"), "Group": ("context",), "MadeBlock": ("x0",)}
"""Tensors that hold clean frames of a video: they are digested frame by frame."""

LOST = "lost"
"""Reason of a BadWindow whose payload went with its node: no fault of anybody's."""


class BadWindow(ValueError):
    """A block or window that must not be used; `reason` is one word for the counters."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Header:
    """An item without its tensors: everything that supply and buffer look at."""

    kind: str
    rollout: int = -1
    attempt: int = 0
    index: int = 0
    """Which window of its rollout, or which block of its videos."""
    role: str = ""
    prompt: str = ""
    seed: int = 0
    start: int = 0
    step: int = 0
    transitions: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    """Weight version by block; none of a trajectory."""
    scores: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    age: int = 0
    weight: float = 1.0
    layout: Layout = field(default_factory=dict)
    frames: tuple[tuple[int, ...], ...] = ()
    """CRC-32 of each clean latent frame, by video: what a window is cut from is compared with by these."""
    checksum: int = 0
    """CRC-32 of the layout and of all other tensors."""
    nbytes: int = 0
    rows: tuple[int, ...] | None = None
    """Of a block: the videos that count, where these are not all that the payload has."""
    drift: float | None = None
    """Of a block: distance of its channels' means to those of the videos' first frames, where somebody needs it."""
    payload: Any = None
    """Where the tensors are: ByteViews, or a reference to them."""

    @property
    def version(self) -> int:
        """Version of the oldest block: a window is as old as its oldest part."""
        return min(self.versions)

    @property
    def name(self) -> str:
        """For messages."""
        return f"window {self.index} of rollout {self.rollout}" if self.rollout >= 0 else f"block {self.index}"

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None without it."""
        return self.layout[name][1] if name in self.layout else None

    def select(self, rows: Sequence[int]) -> "Header":
        """The same block of some of its videos."""
        payload_rows = [row if self.rows is None else self.rows[row] for row in rows]
        return replace(self, rows=tuple(payload_rows), frames=tuple(self.frames[row] for row in rows))


def seal(item: Item, drift: float | None = None) -> tuple[Header, ByteViews | None]:
    """Header and payload of an item, which share its memory; no payload without tensors.

    Raises BadWindow for values that must not be trained on: `not_finite`, `dtype`.
    """
    plain, tensors = take_apart(item)
    layout, frames, checksum = _digests(plain["kind"], tensors)
    known = {name: value for name, value in plain.items() if name in Header.__dataclass_fields__}
    if isinstance(item, MadeBlock):
        known["versions"] = (item.version,)
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    header = Header(**known, layout=layout, frames=frames, checksum=checksum, nbytes=nbytes, drift=drift)
    _require_finite(header, tensors)
    return header, view_bytes(tensors) if tensors else None


def open_item(header: Header, payload: ByteViews) -> Item:
    """The item, whose tensors share the payload's bytes: read them, do not write to them.

    Raises BadWindow `checksum` where the bytes are not those that were sealed, `not_finite` for their values.
    """
    tensors = view_tensors(payload)
    _, frames, checksum = _digests(header.kind, tensors)
    if header.rows is not None:
        frames = tuple(frames[row] for row in header.rows)
    if (frames, checksum) != (header.frames, header.checksum):
        raise BadWindow("checksum", f"{header.name}: its tensors are not those that its actor sent: damaged bytes")
    _require_finite(header, tensors)
    names = [own.name for own in fields(_KINDS[header.kind]) if hasattr(header, own.name)]
    item = put_together({"kind": header.kind} | {name: getattr(header, name) for name in names}, tensors)
    return item if header.rows is None else item.rows(header.rows)


def take_apart(item: Item) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain fields, with the kind's name under "kind", and tensors by field; a mapping's by "field/key"."""
    plain: dict[str, Any] = {"kind": type(item).__name__}
    tensors: dict[str, Tensor] = {}
    for own in fields(item):
        value = getattr(item, own.name)
        if isinstance(value, Tensor):
            tensors[own.name] = value
        elif isinstance(value, dict) and all(isinstance(entry, Tensor) for entry in value.values()):
            tensors |= {f"{own.name}/{key}": tensor for key, tensor in value.items()}
        else:
            plain[own.name] = value
    return plain, tensors


def put_together(plain: dict[str, Any], tensors: dict[str, Tensor]) -> Item:
    """The item that `take_apart` took apart."""
    kind = _KINDS[plain["kind"]]
    values = {name: value for name, value in plain.items() if name != "kind"}
    for path, tensor in tensors.items():
        name, _, key = path.partition("/")
        if key:
            values.setdefault(name, {})[int(key)] = tensor
        else:
            values[name] = tensor
    if kind is MadeBlock:
        values.setdefault("inputs", {})
    if kind is Group:
        values.setdefault("scores", {})
    for name in ("versions", "transitions"):  # lists after msgpack
        if name in values:
            values[name] = tuple(values[name])
    return kind(**values)


def to_checkpoint(plain: dict[str, Any], waiting: Iterable[tuple[Header, Item | BadWindow]]) -> State:
    """The state of a supply with its waiting samples; those that cannot be opened are in flight again."""
    tensors: dict[str, Tensor] = {}
    kept: list[dict[str, Any]] = []
    for header, item in waiting:
        if isinstance(item, BadWindow):
            plain["buffer"]["pending"].append([header.rollout, header.index, None])
            plain["buffer"]["counts"]["delivered"] -= 1
            continue
        fields_of_item, parts = take_apart(item)
        tensors |= {f"{len(kept)}/{name}": tensor for name, tensor in parts.items()}
        kept.append(fields_of_item)
    return tensors, plain | {"waiting": kept}


def from_checkpoint(state: State) -> list[Item]:
    """The waiting samples of a supply's state."""
    tensors, plain = state
    parts: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        i, _, name = path.partition("/")
        parts.setdefault(int(i), {})[name] = tensor
    return [put_together(sample, parts[i]) for i, sample in enumerate(plain["waiting"])]


def rollout_of(plain: dict[str, Any]) -> Rollout:
    """The rollout whose `asdict` went through msgpack, which makes lists of tuples."""
    plans = []
    for plan in plain["windows"]:
        if "members" in plan:
            lists = {name: tuple(plan[name]) for name in ("transitions", "shared")}
            plans.append(GroupPlan(**plan | lists))
        else:
            plans.append(WindowPlan(**plan))
    return Rollout(**plain | {"windows": tuple(plans)})


def _digests(kind: str, tensors: Mapping[str, Tensor]) -> tuple[Layout, tuple[tuple[int, ...], ...], int]:
    """`Header.layout`, `frames` and `checksum`: every byte is read once."""
    layout = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()}
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    clean = [arrays.pop(name) for name in _CLEAN.get(kind, ())]
    videos = [[video] for video in clean[0]] if kind == "MadeBlock" else [clean] if clean else []
    frames = tuple(
        tuple(zlib.crc32(frame) for part in video for frame in part.flatten(1).view(torch.uint8).numpy())
        for video in videos
    )
    checksum = zlib.crc32(repr(layout).encode())
    for array in arrays.values():
        checksum = zlib.crc32(array.flatten().view(torch.uint8).numpy(), checksum)
    return layout, frames, checksum


def _require_finite(header: Header, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadWindow("dtype", f"{header.name}: {name} is {tensor.dtype}, not floating point")
        if not torch.isfinite(tensor).all():
            raise BadWindow("not_finite", f"{header.name}: {name} has NaN or infinite latents")
