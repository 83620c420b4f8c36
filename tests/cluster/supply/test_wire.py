"""What travels comes out as it went in, over the wire and through a checkpoint."""

import copy
import math

import msgpack
import pytest
import torch

from cluster.supply.tensor_bytes import ChecksumMismatch
from cluster.supply.wire import Parcel, put_together, take_apart, unwrap, wrap
from models.records import GRPO, Group, Progress

TENSORS = ("context", "latents", "noisy", "states", "samples", "behaviour", "images")
SCORES = {"continuity": [[0.5, math.nan], [0.0, -1.25]], "my.own.Reward": [[1.0, 2.0], [math.nan, math.nan]]}


def group(context: int = 9, transitions: tuple[int, ...] = (0, 2), **more) -> Group:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, 3, 2, 2, generator=generator)

    recorded = (drawn(2, len(transitions), 6) for _ in range(3))
    return Group(
        4, 1, 0, GRPO, "a prompt", 2**61, context, 3, transitions, (1, 1, 2, 2, 3), drawn(context), drawn(2, 6),
        drawn(2, 6), *recorded, **more,
    )  # fmt: skip


def checkpointed(item):
    """As `Supply.state` and a checkpoint do it: plain fields through msgpack."""
    plain, tensors = take_apart(item)
    return put_together(msgpack.unpackb(msgpack.packb(plain)), tensors)


def sent(item):
    """Between processes: nothing is shared."""
    return unwrap(copy.deepcopy(wrap(item)))


def plain_of(item: Group):
    return {name: value for name, value in take_apart(item)[0].items() if name != "scores"}


@pytest.mark.parametrize("through", [checkpointed, sent])
@pytest.mark.parametrize(
    "item",
    [
        group(),
        group(scores=SCORES),
        group(context=0, scores=SCORES, age=3, weight=0.25),
        group(transitions=(), scores=SCORES),
        group(images=torch.randn(2, 3, 2, 2)),
    ],
    ids=["not scored", "scored", "without a past", "without transitions", "with images"],
)
def test_a_group_comes_out_as_it_went_in_with_missing_scores_still_missing(through, item):
    out = through(item)
    assert plain_of(out) == plain_of(item) and isinstance(out.versions, tuple) and isinstance(out.transitions, tuple)
    for name in TENSORS:
        one, other = getattr(out, name), getattr(item, name)
        if other is None:
            assert one is None and name == "images"
            continue
        assert one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other), name
    assert out.scores.keys() == item.scores.keys()
    for name, scores in item.scores.items():
        torch.testing.assert_close(torch.tensor(out.scores[name]), torch.tensor(scores), equal_nan=True)


def test_scores_are_added_to_a_group_without_packing_its_tensors_again():
    """The coordinator keeps an actor's bytes and changes the plain part only."""
    parcel = wrap(group())
    scored = unwrap(Parcel(take_apart(group(scores=SCORES))[0], parcel.tensors))
    assert scored.scores == SCORES and torch.equal(scored.latents, group().latents)


def test_damaged_latents_of_a_group_are_noticed():
    parcel = wrap(group())
    chunk = next(chunk for chunk in parcel.tensors.views.chunks if len(chunk))
    chunk = chunk.copy() if not chunk.flags.writeable else chunk
    chunk[len(chunk) // 2] ^= 1
    parcel.tensors.views.chunks[0] = chunk
    with pytest.raises(ChecksumMismatch):
        unwrap(parcel)


def test_a_sign_of_life_says_what_was_done():
    assert sent(Progress(3, "continued block")) == Progress(3, "continued block")
