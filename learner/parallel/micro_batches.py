"""Split a batch by data rank and forward pass. A window keeps its place in the whole batch."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from learner.parallel import collectives

Item = TypeVar("Item")


def own_places(size: int) -> range:
    """Return this rank's places in a whole batch of `size`: contiguous, in the order of the data ranks."""
    share = size // collectives.data_size()
    return range(collectives.data_rank() * share, (collectives.data_rank() + 1) * share)


def micro_batches(items: Sequence[Item], micro_batch: int | None) -> Iterator[Sequence[Item]]:
    """Cut `items` into runs of `micro_batch`; without, into one."""
    step = micro_batch or len(items)
    return (items[first : first + step] for first in range(0, len(items), step))
