"""From groups to the terms of a policy gradient: members as windows, and the transitions that they took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.records import Group, Window


@dataclass(frozen=True)
class Transition:
    """One re-noising transition of all blocks of one member. Latents are on CPU."""

    window: Window
    """The member, whole."""
    step: int
    """Denoising step that it leaves; it reaches the next."""
    state: Tensor
    """[K C H W]."""
    sample: Tensor
    """[K C H W]."""
    behaviour: Tensor
    """The actor's x0 at `step`, [K C H W]."""
    advantage: Tensor
    """[blocks], 0 where it does not count."""
    valid: Tensor
    """[blocks] bool."""


def transitions_of(group: Group, advantages: Tensor, valid: Tensor) -> Iterator[Transition]:
    """All transitions of a group; `advantages` and `valid` are [G blocks]."""
    for member in range(group.members):
        window = member_window(group, member, 0, group.latents.shape[1])
        for i, step in enumerate(group.transitions):
            yield Transition(
                window,
                step,
                group.states[member, i],
                group.samples[member, i],
                group.behaviour[member, i],
                advantages[member],
                valid[member],
            )


def member_window(group: Group, member: int, first: int, frames: int) -> Window:
    """`frames` frames of a member from its frame `first` on, as a window at the last denoising step.

    What lies before them, in the member and in the shared past, is its context, as long as the group's. Where `first`
    is below 0 the window begins in the shared past, whose inputs nobody has recorded: `noisy` is NaN there.
    """
    latents, noisy = group.latents[member], group.noisy[member]
    context = group.context  # the same tensor for all members: it is read once for all of them
    if first < 0:
        past, context = context[first:], context[:first]
        latents, noisy = torch.cat([past, latents]), torch.cat([torch.full_like(past, torch.nan), noisy])
    elif first:
        past = torch.cat([context, latents[:first]])
        wanted = len(context) if group.start > len(context) else len(past)
        context = past[len(past) - wanted :]
    own = max(first, 0)
    return Window(
        rollout=group.rollout,
        attempt=group.attempt,
        index=member,
        role=group.role,
        prompt=group.prompt,
        seed=group.seed,
        start=group.start + first,
        step=group.step,
        versions=group.versions,
        context=context,
        latents=latents[own : own + frames],
        noisy=noisy[own : own + frames],
        age=group.age,
        weight=group.weight,
        image=None if first or group.images is None else group.images[member],
    )


def windows_for_scores(groups: Sequence[Group], each: int, frames: int, block: int, turn: int) -> list[Window]:
    """`each` members of every group, cut to `frames`, for the extended DMD loss; other ones at every `turn`.

    Windows that are longer than the members end with them, and begin in what they share.
    """
    windows = []
    for group in groups:
        last = group.latents.shape[1] - frames
        places = range(min(last, 0), last + 1, block)
        for i in range(each):
            number = turn * each + i
            place = places[number // group.members % len(places)]
            windows.append(member_window(group, number % group.members, place, frames))
    return windows


def repeat_per_block(values: Tensor, blocks: int) -> Tensor:
    """What [... W] windows say of each of `blocks` blocks, [... blocks]; a window is a whole number of blocks."""
    windows = values.shape[-1]
    assert blocks % windows == 0, (tuple(values.shape), blocks)
    return values.repeat_interleave(blocks // windows, dim=-1)
