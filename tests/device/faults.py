"""Plant the faults that a first day on a GPU would find, each in one block, loss or collective."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from learner import ode
from learner.parallel import collectives
from models.wan.layers import Block

_library = torch.library.Library("longtake_faults", "DEF")
_library.define("only_on_cpu(Tensor x) -> Tensor")
_library.impl("only_on_cpu", lambda x: x.clone(), "CPU")


def _constant_on_cpu(x: Tensor) -> Tensor:
    return x * torch.ones(x.shape[-1])


def _read_by_host(x: Tensor) -> Tensor:
    return x * float(x.flatten()[0].item() + 1)


def _computed_in_float64(x: Tensor) -> Tensor:
    return (x * torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)).type_as(x)


def _only_on_cpu(x: Tensor) -> Tensor:
    return torch.ops.longtake_faults.only_on_cpu(x)


def _gathered_in_another_group(x: Tensor) -> Tensor:
    group = distributed.new_group([0])
    parts = [torch.empty_like(x)]
    distributed.all_gather(parts, x.contiguous(), group=group)
    return parts[0]


def _gathered_along_the_sequence(values: Tensor) -> Tensor:
    group = collectives.sequence_group()
    parts = [torch.empty_like(values) for _ in range(group.size())]
    distributed.all_gather(parts, values.contiguous(), group=group)
    return torch.cat(parts)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant on the CPU": _constant_on_cpu,
    "read by the host": _read_by_host,
    "computed in float64": _computed_in_float64,
    "only on the CPU": _only_on_cpu,
    "gathered in another group": _gathered_in_another_group,
}
"""Changes of a block's input, by name."""


IN_A_LOSS = "read by the host in a loss"
OF_SHARES = "shares gathered among the ranks of one window"


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant a fault in every block, in stage ode's loss or in the gather of shares; None plants none."""
    forward, loss, gather = Block.forward, ode.squared_error, collectives.all_gather_cat
    if fault == IN_A_LOSS:
        ode.squared_error = lambda x, target: loss(_read_by_host(x), target)
    elif fault == OF_SHARES:
        collectives.all_gather_cat = _gathered_along_the_sequence
    elif fault is not None:
        change = FAULTS[fault]
        Block.forward = lambda block, hidden, *rest, **named: forward(block, change(hidden), *rest, **named)
    try:
        yield
    finally:
        Block.forward, ode.squared_error, collectives.all_gather_cat = forward, loss, gather
