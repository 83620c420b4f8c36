"""A batch, cut over ranks and over forward passes. A window keeps its place in the whole batch wherever it is made."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from learner import ranks

Item = TypeVar("Item")


def check_batch(name: str, size: int, ranks: int, micro_batch: int | None) -> None:
    """Refuse a batch that does not divide over the ranks and their forward passes; `name` is its key."""
    if size % ranks:
        raise ValueError(f"{name} = {size} does not divide over {ranks} learner ranks; make it a multiple of {ranks}")
    share = size // ranks
    if micro_batch is not None and share % micro_batch:
        raise ValueError(
            f"{name} = {size} gives each of {ranks} learner ranks {share}, no multiple of learner.micro_batch = "
            f"{micro_batch}; change learner.micro_batch or {name}"
        )


def own_places(size: int) -> range:
    """This rank's places in a whole batch of `size`: contiguous, in the order of the ranks."""
    share = size // ranks.size()
    return range(ranks.rank() * share, (ranks.rank() + 1) * share)


def micro_batches(items: Sequence[Item], micro_batch: int | None) -> Iterator[Sequence[Item]]:
    """`items` in runs of `micro_batch`; all of them at once without."""
    step = micro_batch or len(items)
    return (items[first : first + step] for first in range(0, len(items), step))
