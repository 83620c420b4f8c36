"""A batch, cut over ranks and over forward passes. A window keeps its place in the whole batch wherever it is made."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from learner.parallel import collectives

Item = TypeVar("Item")


def own_places(size: int) -> range:
    """This rank's places in a whole batch of `size`: contiguous, in the order of the ranks."""
    share = size // collectives.size()
    return range(collectives.rank() * share, (collectives.rank() + 1) * share)


def micro_batches(items: Sequence[Item], micro_batch: int | None) -> Iterator[Sequence[Item]]:
    """`items` in runs of `micro_batch`; all of them at once without."""
    step = micro_batch or len(items)
    return (items[first : first + step] for first in range(0, len(items), step))
