"""What travels comes out as it went in, over the wire and through a checkpoint, and damage is noticed."""

import copy
import math
import pickle
from dataclasses import replace

import msgpack
import numpy
import pytest
import torch

from cluster.supply.item_tensors import take_apart
from cluster.supply.supply_state import from_checkpoint, to_checkpoint
from cluster.supply.tensor_bytes import ByteViews
from cluster.supply.wire import BadWindow, open_item, seal
from models.records import GRPO, STUDENT, Group, MadeBlock, Progress, Trajectory, Window

TENSORS = ("context", "latents", "noisy", "states", "samples", "behaviour", "images")
SCORES = {"continuity": [[0.5, math.nan], [0.0, -1.25]], "my.own.Reward": [[1.0, 2.0], [math.nan, math.nan]]}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def group(context: int = 9, transitions: tuple[int, ...] = (0, 2), **more) -> Group:
    recorded = (drawn(2, len(transitions), 6, seed=i) for i in range(3))
    return Group(
        4, 1, 0, GRPO, "a prompt", 2**61, context, 3, transitions, (1, 1, 2, 2, 3), drawn(context), drawn(2, 6),
        drawn(2, 6, seed=4), *recorded, **more,
    )  # fmt: skip


def window(**more) -> Window:
    return Window(
        4, 1, 0, STUDENT, "a prompt", 7, 9, 3, (1, 1, 2, 2, 3), drawn(9), drawn(6, seed=1), drawn(6, seed=2), **more
    )


def block(videos: int = 3) -> MadeBlock:
    return MadeBlock(5, 2, drawn(videos, 3), {3: drawn(videos, 3, seed=1)})


def checkpointed(item):
    """As `Supply.state` and a checkpoint do it: plain fields through msgpack."""
    plain = {"buffer": {"pending": [], "counts": {"delivered": 1}}}
    tensors, plain = to_checkpoint(plain, [(seal(item)[0], item)])
    (out,) = from_checkpoint((tensors, msgpack.unpackb(msgpack.packb(plain))))
    return out


def sent(item):
    """Between processes: nothing is shared."""
    header, payload = pickle.loads(pickle.dumps(seal(item)))
    return open_item(header, payload)


def plain(item: Group):
    return {name: value for name, value in take_apart(item)[0].items() if name not in ("scores", "image", "images")}


@pytest.mark.parametrize("through", [checkpointed, sent])
@pytest.mark.parametrize(
    "item",
    [
        group(),
        group(scores=SCORES),
        group(context=0, scores=SCORES, age=3, weight=0.25),
        group(transitions=(), scores=SCORES),
        group(images=torch.randn(2, 3, 2, 2)),
        window(age=3, weight=0.25),
        window(image=torch.randn(3, 2, 2)),
        Trajectory(4, 1, 0, "ode", "a prompt", 7, drawn(4, 6), drawn(6)),
        block(),
    ],
    ids=[
        "group", "scored", "without a past", "without transitions", "with images", "window", "with an image",
        "trajectory", "block",
    ],
)  # fmt: skip
def test_an_item_comes_out_as_it_went_in_with_missing_scores_still_missing(through, item):
    if through is checkpointed and isinstance(item, MadeBlock):
        return  # blocks wait for nobody
    out = through(item)
    assert type(out) is type(item) and plain(out) == plain(item)
    for name, tensor in take_apart(item)[1].items():
        other = take_apart(out)[1][name]
        assert other.shape == tensor.shape and other.dtype == tensor.dtype and torch.equal(other, tensor), name
    assert take_apart(out)[1].keys() == take_apart(item)[1].keys()
    if isinstance(item, Group):
        assert out.scores.keys() == item.scores.keys()
        for name, scores in item.scores.items():
            torch.testing.assert_close(torch.tensor(out.scores[name]), torch.tensor(scores), equal_nan=True)


def test_what_the_supply_writes_into_a_header_comes_out_without_sealing_the_tensors_again():
    header, payload = seal(group())
    scored = open_item(replace(header, scores=SCORES, age=4, weight=0.5), payload)
    assert scored.scores == SCORES and (scored.age, scored.weight) == (4, 0.5)
    assert torch.equal(scored.latents, group().latents)


@pytest.mark.parametrize("item", [group(), window(image=torch.randn(3, 2, 2)), block()])
def test_one_flipped_bit_of_any_tensor_is_noticed(item):
    header, payload = seal(item)
    names = [name for name, entry in payload.entries.items() if math.prod(entry[1])]
    for name in names:
        _, shape, chunk, first = payload.entries[name]
        chunks = copy.deepcopy(payload.chunks)
        chunks[chunk][first + math.prod(shape) * 4 - 1] ^= 1
        with pytest.raises(BadWindow) as refused:
            open_item(header, ByteViews(chunks, payload.entries))
        assert refused.value.reason == "checksum", name


def test_another_name_dtype_or_shape_over_the_same_bytes_is_noticed():
    header, payload = seal(window())
    for other in ({"dtype": "int32"}, {"shape": (12, 3, 1, 2)}):
        dtype, shape, *place = payload.entries["noisy"]
        entry = (other.get("dtype", dtype), other.get("shape", shape), *place)
        with pytest.raises(BadWindow) as refused:
            open_item(header, ByteViews(payload.chunks, payload.entries | {"noisy": entry}))
        assert refused.value.reason == "checksum"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_by_the_actor_and_by_the_learner(value):
    bad = window()
    header, payload = seal(bad)
    bad.noisy[0] = value
    with pytest.raises(BadWindow) as refused:
        seal(bad)
    assert refused.value.reason == "not_finite"
    with pytest.raises(BadWindow):
        open_item(header, payload)


def test_frames_have_the_digests_of_the_blocks_that_they_were_cut_from():
    made = block(videos=2)
    latents = torch.cat([made.x0[1], drawn(3, seed=9)])
    cut = replace(window(), context=drawn(0), latents=latents, noisy=latents)
    ((*frames,),) = seal(cut)[0].frames
    assert tuple(frames[:3]) == seal(made)[0].frames[1] != seal(made)[0].frames[0]


def test_a_block_can_be_opened_for_some_of_its_videos_and_for_some_of_these():
    header, payload = seal(block(videos=4))
    chosen = header.select([3, 1, 0]).select([2, 0])
    out = open_item(chosen, payload)
    assert torch.equal(out.x0, block(4).x0[[0, 3]]) and torch.equal(out.inputs[3], block(4).inputs[3][[0, 3]])


def test_a_sign_of_life_has_no_payload():
    header, payload = seal(Progress(3, "continued block"))
    assert header.kind == "Progress" and not header.layout and payload is None


def test_a_lost_sample_is_in_flight_again_in_the_checkpoint():
    header, _ = seal(window())
    state = {"buffer": {"pending": [], "counts": {"delivered": 5}}}
    tensors, plain = to_checkpoint(state, [(header, BadWindow("lost", "")), (header, window())])
    assert plain["buffer"] == {"pending": [[4, 0, None]], "counts": {"delivered": 4}}
    assert len(plain["waiting"]) == 1 and {path.partition("/")[0] for path in tensors} == {"0"}


def test_a_reason_survives_the_way_between_processes():
    bad = pickle.loads(pickle.dumps(BadWindow("shape", "3/2/latents")))
    assert (bad.reason, str(bad)) == ("shape", "3/2/latents")


@pytest.mark.ray
def test_readers_of_a_node_see_payloads_in_place_and_read_only(local_ray):
    header, payload = seal(replace(window(), latents=drawn(6000), noisy=drawn(6000)))
    reference = local_ray.put(payload)
    first, second = local_ray.get(reference), local_ray.get(reference)
    for mine, other in zip(first.chunks, second.chunks, strict=True):
        assert isinstance(mine, numpy.ndarray) and not mine.flags.writeable
        assert mine.ctypes.data == other.ctypes.data, "a copy was made"
    opened = open_item(header, first)
    places = range(first.chunks[-1].ctypes.data, first.chunks[-1].ctypes.data + first.chunks[-1].nbytes)
    assert opened.noisy.data_ptr() in places
