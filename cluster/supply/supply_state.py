"""Convert the state of a supply to and from its form in a checkpoint."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from cluster.supply.item_tensors import Item, put_together, take_apart
from cluster.supply.wire import BadWindow, Header
from models.records import GroupPlan, Rollout, WindowPlan

State = tuple[dict[str, Tensor], dict[str, Any]]
"""State in a checkpoint: tensors by name, and plain lists and mappings."""
SupplyState = tuple[dict[str, Any], list[Header]]
"""Everything plain, and the headers of waiting samples, which `to_checkpoint` opens."""


def to_checkpoint(plain: dict[str, Any], waiting: Iterable[tuple[Header, Item | BadWindow]]) -> State:
    """Store a supply's state with its waiting samples; those that cannot be opened count as in flight."""
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
    """Return the waiting samples of a supply's state."""
    tensors, plain = state
    parts: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        i, _, name = path.partition("/")
        parts.setdefault(int(i), {})[name] = tensor
    return [put_together(sample, parts[i]) for i, sample in enumerate(plain["waiting"])]


def rollout_of(plain: dict[str, Any]) -> Rollout:
    """Rebuild the rollout whose `asdict` went through msgpack, which makes lists of tuples."""
    plans = []
    for plan in plain["windows"]:
        if "members" in plan:
            lists = {name: tuple(plan[name]) for name in ("transitions", "shared")}
            plans.append(GroupPlan(**plan | lists))
        else:
            plans.append(WindowPlan(**plan))
    return Rollout(**plain | {"windows": tuple(plans)})
