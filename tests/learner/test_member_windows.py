"""What the extended DMD loss sees of groups."""

from collections import Counter
from dataclasses import replace

import torch

from learner.member_windows import windows_for_scores
from models.records import GRPO, Group

MEMBERS, FRAMES, BLOCK = 4, 12, 3


def group(start: int = 30) -> Group:
    """Every latent frame shows its member and its number."""
    numbers = torch.arange(FRAMES, dtype=torch.float32)[None] + 100 * torch.arange(MEMBERS)[:, None]
    latents = numbers[:, :, None, None, None]
    empty = torch.zeros(MEMBERS, 0, FRAMES, 1, 1, 1)
    return Group(
        rollout=0, attempt=0, index=0, role=GRPO, prompt="", seed=0, start=start, step=3, transitions=(),
        versions=(0,) * (FRAMES // BLOCK), context=torch.arange(-9.0, 0)[:, None, None, None], latents=latents,
        noisy=latents, states=empty, samples=empty, behaviour=empty,
    )  # fmt: skip


def shown(window) -> tuple[int, int]:
    """Member and first frame."""
    return divmod(int(window.latents.flatten()[0]), 100)


def test_every_member_is_seen_at_every_place_and_all_pairs_come_equally_often():
    places = (FRAMES - 6) // BLOCK + 1
    turns = 2 * MEMBERS * places
    seen = Counter(shown(w) for turn in range(turns) for w in windows_for_scores([group()], 1, 6, BLOCK, turn))
    assert seen == {(member, BLOCK * place): 2 for member in range(MEMBERS) for place in range(places)}


def test_a_window_inside_a_member_has_what_was_before_it_as_context():
    for turn in range(12):
        for window in windows_for_scores([group()], 2, 6, BLOCK, turn):
            member, first = shown(window)
            own = [100 * member + frame for frame in range(first)]
            assert window.context.flatten().tolist() == [*range(-9, 0), *own][-9:]
            assert window.start == 30 + first and len(window.latents) == 6


def test_windows_at_the_fork_share_the_context_of_their_group_in_memory():
    whole = group()
    windows = [w for turn in range(4) for w in windows_for_scores([whole], 1, FRAMES, BLOCK, turn)]
    assert all(window.context is whole.context for window in windows)


def test_a_window_longer_than_the_members_begins_in_the_past_that_they_share():
    short = replace(group(), latents=group().latents[:, :3], noisy=group().noisy[:, :3])
    seen = [w for turn in range(MEMBERS) for w in windows_for_scores([short], 1, 9, BLOCK, turn)]
    for member, window in enumerate(seen):
        own = [100.0 * member + frame for frame in range(3)]
        assert window.latents.flatten().tolist() == [*range(-6, 0), *own]
        assert window.context.flatten().tolist() == [-9, -8, -7] and window.start == 24
        assert window.noisy[:6].isnan().all() and window.noisy[6:].flatten().tolist() == own
