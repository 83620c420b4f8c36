"""Convert members of a group to windows."""

from collections.abc import Sequence

import torch

from models.records import Group, Window


def member_window(group: Group, member: int, first: int, frames: int) -> Window:
    """Cut `frames` frames of a member from its frame `first` on, as a window at the last denoising step.

    The frames before them, of the member and of the shared past, are its context, as long as the group's. Where `first`
    is below 0 the window begins in the shared past, whose inputs are not recorded: `noisy` is NaN there.
    """
    latents, noisy = group.latents[member], group.noisy[member]
    context = group.context  # the same tensor for all members: it is read once for all of them
    if first < 0:
        past, context = context[first:], context[:first]
        latents, noisy = torch.cat([past, latents]), torch.cat([torch.full_like(past, torch.nan), noisy])
    elif first:
        past = torch.cat([context, latents[:first]])
        length = len(context) if group.start > len(context) else len(past)
        context = past[len(past) - length :]
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
    """Cut `each` members of every group to `frames`, for the extended DMD loss; other members at every `turn`.

    Windows that are longer than the members end with them, and begin in the shared past.
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
