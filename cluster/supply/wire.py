"""What travels, taken apart: its tensors, and the plain rest. For the wire and for checkpoints."""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from cluster.supply.tensor_bytes import PackedTensors, pack_tensors, unpack_tensors, verify
from models.records import Group, GroupPlan, MadeBlock, Progress, Rollout, Trajectory, Window, WindowPlan

KINDS = {kind.__name__: kind for kind in (Window, Group, Trajectory, MadeBlock, Progress)}
Item = Window | Group | Trajectory | MadeBlock | Progress


def take_apart(item: Item) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain fields, with the kind's name under "kind", and tensors by field; a mapping's by "field/key"."""
    plain: dict[str, Any] = {"kind": type(item).__name__}
    tensors: dict[str, Tensor] = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        elif isinstance(value, dict) and all(isinstance(entry, Tensor) for entry in value.values()):
            tensors |= {f"{field.name}/{key}": tensor for key, tensor in value.items()}
        else:
            plain[field.name] = value
    return plain, tensors


def put_together(plain: dict[str, Any], tensors: dict[str, Tensor]) -> Item:
    """What `take_apart` took apart."""
    kind = KINDS[plain["kind"]]
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


@dataclass(frozen=True)
class Parcel:
    """An item on the wire: every reader of a node sees its bytes in place."""

    plain: dict[str, Any]
    tensors: PackedTensors


def wrap(item: Item) -> Parcel:
    """Pack an item, with a checksum over its tensors."""
    plain, tensors = take_apart(item)
    return Parcel(plain, pack_tensors(tensors))


def unwrap(parcel: Parcel) -> Item:
    """The item, its tensors sharing the parcel's bytes. Raises ChecksumMismatch if they are damaged."""
    verify(parcel.tensors)
    return put_together(parcel.plain, unpack_tensors(parcel.tensors))


def rollout_of(plain: dict[str, Any]) -> Rollout:
    """The rollout whose `asdict` this was, before msgpack."""
    return Rollout(**plain | {"windows": tuple(_plan(plan) for plan in plain["windows"])})


def _plan(plain: dict[str, Any]) -> WindowPlan:
    if "members" not in plain:
        return WindowPlan(**plain)
    lists = {name: tuple(plain[name]) for name in ("transitions", "shared")}  # tuples before msgpack
    return GroupPlan(**plain | lists)
