"""Plant the faults that a first day on a GPU would find, each in one block, loss or collective."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from learner import ode
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


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant on the CPU": _constant_on_cpu,
    "read by the host": _read_by_host,
    "computed in float64": _computed_in_float64,
    "only on the CPU": _only_on_cpu,
    "gathered in another group": _gathered_in_another_group,
}
"""Changes of a block's input, by name."""


IN_A_LOSS = "read by the host in a loss"


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant a fault in every block, or in stage ode's loss; None plants none."""
    forward, loss = Block.forward, ode.squared_error
    if fault == IN_A_LOSS:
        ode.squared_error = lambda x, target: loss(_read_by_host(x), target)
    elif fault is not None:
        change = FAULTS[fault]
        Block.forward = lambda block, hidden, *rest, **named: forward(block, change(hidden), *rest, **named)
    try:
        yield
    finally:
        Block.forward, ode.squared_error = forward, loss
