from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.causal import Past, denoise_block, denoise_window, write_block
from models.kv_cache import KVCache
from models.wan.attention import Visibility
from models.wan.layers import KeysValues
from models.wan.network import Wan
from tests.models.small_wan import CONFIG, HEIGHT, TOKENS, WIDTH


def network() -> Wan:
    """Random weights in float64, with gates and norms far from their initial values: attention matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Wan(CONFIG).double()
        for p in student.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.3)
    return student


@pytest.fixture(scope="module")
def student() -> Wan:
    return network().requires_grad_(False)


def latents(frames: int, seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, 2, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


def text_for(student: Wan, batch: int = 2) -> list[KeysValues]:
    generator = torch.Generator().manual_seed(99)
    return student.text_keys_values(torch.randn(batch, 5, 8, generator=generator, dtype=torch.float64))


def levels(frames: int, batch: int = 2) -> Tensor:
    """A timestep [B F] of its own for every frame."""
    generator = torch.Generator().manual_seed(7)
    return 1000 * torch.rand(batch, frames, generator=generator, dtype=torch.float64)


def with_a_window_mask(student: Wan, clean: Tensor, x_t: Tensor, timestep: Tensor, context: int) -> Tensor:
    """The slow way to see a past: all frames again, and a boolean [L L] that says who may look at whom."""
    block, frames = x_t.shape[1], clean.shape[1] + x_t.shape[1]
    frame = torch.arange(frames)
    first = frame // block * block
    sees = (frame < (first + block)[:, None]) & (frame >= (first - context)[:, None])
    mask = sees.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)[None, None]
    everything = slice(0, frames * TOKENS)
    times = torch.cat([torch.zeros(clean.shape[:2], dtype=torch.float64), timestep], dim=1)
    dense = Visibility(((everything, (everything,)),), (mask,))
    velocity = student.run(torch.cat([clean, x_t], dim=1), times, text_for(student), visibility=dense)
    return velocity[:, -block:]


@pytest.mark.parametrize(("block", "context"), [(1, 1), (1, 3), (2, 4), (3, 3), (2, 0)])
def test_rolling_cache_equals_recomputing_with_a_window_mask(student, block, context):
    blocks = 2 * context // block + 4  # the last ones no longer see, at any layer, what the cache has dropped
    video, noisy, cache = latents(block * blocks, 1), latents(block * blocks, 2), KVCache(CONFIG, context)
    timestep, text = levels(block), text_for(student)
    for start in range(0, block * blocks, block):
        x_t, x0 = noisy[:, start : start + block], video[:, start : start + block]
        slow = with_a_window_mask(student, video[:, :start], x_t, timestep, context)
        fast = denoise_block(student, x_t, timestep, text, cache)
        assert (fast - slow).norm() <= 1e-12 * slow.norm()
        cache = write_block(student, x0, text, cache)


def test_a_block_sees_exactly_its_context_and_nothing_before_it_when_the_network_has_one_layer():
    student = network()
    del student.blocks[1:]
    x_t, timestep, text = latents(1, 3), levels(1), text_for(student)

    def velocity(video: Tensor) -> Tensor:
        cache = KVCache(CONFIG, context_frames=2)
        for frame in video.split(1, dim=1):
            cache = write_block(student, frame, text, cache)
        return denoise_block(student, x_t, timestep, text, cache)

    video = latents(5, 4)
    for frame in range(5):
        changed = video.clone()
        changed[:, frame] += 1
        assert torch.equal(velocity(changed), velocity(video)) == (frame < 3)


def in_one_pass(
    student: Wan,
    x_t: Tensor,
    timestep: Tensor,
    text: list[KeysValues],
    clean: Tensor,
    padding: Sequence[int],
    block: int,
    context: int,
    context_gradient: bool = False,
) -> Tensor:
    """`denoise_window` of windows that each have a past of their own: `clean` begins with it."""
    history = clean.shape[1] - (x_t.shape[1] - block)
    past = Past(clean[:, :history], tuple(padding), tuple(range(len(x_t))), tuple(-filler for filler in padding))
    return denoise_window(student, x_t, timestep, text, past, clean[:, history:], block, context, context_gradient)


def write_with_gradient(student: Wan, x0: Tensor, text: list[KeysValues], cache: KVCache) -> KVCache:
    """`write_block`, whose keys and values depend on the weights."""
    return cache.append(x0.shape[1], student.keys_values(x0, text, start=cache.frames, past=cache.past(x0.shape[1])))


def window_by_blocks(
    student: Wan,
    x_t: Tensor,
    timestep: Tensor,
    text: list[KeysValues],
    clean: list[Tensor],
    block: int,
    context: int,
    write: Callable[..., KVCache] = write_block,
) -> Tensor:
    """Every sample alone, block by block on a cache. `clean` holds its own frames but the window's last block."""
    samples, frames = [], x_t.shape[1]
    for i, own in enumerate(clean):
        own_text = [(keys[i : i + 1], values[i : i + 1]) for keys, values in text]
        history, cache, made = len(own) - (frames - block), KVCache(CONFIG, context), []
        for first in range(-history, frames, block):
            if first >= 0:
                x, t = x_t[i : i + 1, first : first + block], timestep[i : i + 1, first : first + block]
                made.append(denoise_block(student, x, t, own_text, cache))
            if first + block < frames:
                x0 = own[None, history + first : history + first + block]
                cache = write(student, x0, own_text, cache)
        samples.append(torch.cat(made, dim=1))
    return torch.cat(samples)


@settings(max_examples=25, deadline=None)
@given(
    block=st.integers(1, 3),
    context=st.integers(0, 3),
    window=st.integers(1, 4),
    histories=st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_one_masked_pass_equals_block_by_block_with_short_histories_beside_long_ones(
    student, block, context, window, histories
):
    batch, frames = len(histories), block * window
    text, x_t, timestep = text_for(student, batch), latents(frames, 5, batch), levels(frames, batch)
    clean = latents(block * (max(histories) + window - 1), 6, batch)
    padding = [block * (max(histories) - history) for history in histories]
    fast = in_one_pass(student, x_t, timestep, text, clean, padding, block, block * context)
    own = [sample[filler:] for sample, filler in zip(clean, padding, strict=True)]
    slow = window_by_blocks(student, x_t, timestep, text, own, block, block * context)
    assert (fast - slow).norm() <= 1e-12 * slow.norm()


@pytest.mark.parametrize("rows", [(0, 0, 0), (1, 0, 1)])
@pytest.mark.parametrize("context", [0, 2, 4, 8])
def test_windows_that_share_a_row_of_the_past_equal_windows_with_rows_of_their_own(student, rows, context):
    count = max(rows) + 1
    of_video = [(keys[list(rows)], values[list(rows)]) for keys, values in text_for(student, count)]
    x_t, timestep, clean, pasts = latents(6, 5, 3), levels(6, 3), latents(4, 6, 3), latents(6, 7, count)
    shared = Past(pasts, (2, 0)[:count], rows, (7, 30)[:count])
    own = Past(
        pasts[list(rows)], tuple(shared.padding[i] for i in rows), (0, 1, 2), tuple(shared.starts[i] for i in rows)
    )
    one, other = (denoise_window(student, x_t, timestep, of_video, past, clean, 2, context) for past in (shared, own))
    assert (one - other).norm() <= 1e-12 * other.norm()


def test_filler_in_front_of_a_short_history_is_seen_by_nobody(student):
    text, x_t, timestep, clean = text_for(student), latents(4, 1), levels(4), latents(8, 2)
    filled = clean.clone()
    filled[0, :4] = 1e3
    one, other = (in_one_pass(student, x_t, timestep, text, frames, (4, 0), 2, 4) for frames in (clean, filled))
    assert torch.equal(one, other)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_a_noisy_frame_changes_its_own_block_and_leaves_all_others_bit_equal(student, changed):
    text, x_t, timestep, clean = text_for(student), latents(6, 1), levels(6), latents(6, 2)
    other = x_t.clone()
    other[:, 2 * changed + 1] += 1
    before, after = (in_one_pass(student, x, timestep, text, clean, (0, 0), 2, 4) for x in (x_t, other))
    same = [torch.equal(a, b) for a, b in zip(before.split(2, 1), after.split(2, 1), strict=True)]
    assert same == [index != changed for index in range(3)]


@pytest.mark.parametrize("changed", range(4))
def test_changing_a_clean_frame_leaves_its_own_block_and_all_earlier_ones_bit_equal(student, changed):
    text, x_t, timestep, clean = text_for(student), latents(6, 1), levels(6), latents(8, 2)
    other = clean.clone()
    other[:, 2 * changed + 1] += 1  # clean blocks 0 and 1 are history, 2 and 3 the window's first two
    before, after = (in_one_pass(student, x_t, timestep, text, x, (0, 0), 2, 4) for x in (clean, other))
    same = [torch.equal(a, b) for a, b in zip(before.split(2, 1), after.split(2, 1), strict=True)]
    assert same == [index + 2 <= changed for index in range(3)]


def test_a_cache_requires_no_gradient_and_gives_none_to_the_frames_in_it():
    student = network()
    x0, text = latents(2, 1).requires_grad_(), text_for(student)
    cache = write_block(student, x0, text, KVCache(CONFIG, context_frames=2))
    assert not any(tensor.requires_grad for layer in cache.past(0) for segment in layer for tensor in segment)
    velocity = denoise_block(student, latents(2, 2), levels(2), text, cache)
    assert velocity.requires_grad
    assert torch.autograd.grad(velocity.sum(), x0, allow_unused=True) == (None,)


def weights_gradient(student: Wan, loss: Tensor) -> Tensor:
    """Gradient of all weights in one vector; a weight that `loss` does not reach has zeros."""
    gradients = torch.autograd.grad(loss, list(student.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_a_loss_on_a_block_reaches_no_weight_through_its_cache():
    student, writer = network(), network()

    def gradient_with_cache_of(who: Wan) -> Tensor:
        text, cache = text_for(student), KVCache(CONFIG, context_frames=2)
        cache = write_block(who, latents(2, 1), text if who is student else text_for(who), cache)
        return weights_gradient(student, denoise_block(student, latents(2, 2), levels(2), text, cache).square().sum())

    gradient = gradient_with_cache_of(student)
    assert gradient.norm() > 0
    assert torch.equal(gradient, gradient_with_cache_of(writer))  # equal weights, but no graph could lead to ours


def test_a_loss_on_the_last_block_of_a_window_gives_nothing_to_earlier_blocks_or_clean_frames():
    student = network()
    x_t, clean = latents(6, 1).requires_grad_(), latents(8, 2).requires_grad_()
    velocity = in_one_pass(student, x_t, levels(6), text_for(student), clean, (0, 0), 2, 4)
    to_noisy, to_clean = torch.autograd.grad(velocity[:, -2:].square().sum(), (x_t, clean), allow_unused=True)
    assert to_clean is None
    assert torch.equal(to_noisy[:, :-2], torch.zeros_like(to_noisy[:, :-2])) and to_noisy[:, -2:].abs().min() > 0


def test_the_gradient_of_one_masked_pass_equals_that_of_block_by_block():
    student = network()
    x_t, timestep, clean, towards = latents(6, 1), levels(6), latents(10, 2), latents(6, 3)
    fast = in_one_pass(student, x_t, timestep, text_for(student), clean, (4, 0), 2, 4)
    own = [clean[0, 4:], clean[1]]
    slow = window_by_blocks(student, x_t, timestep, text_for(student), own, 2, 4)
    expected = weights_gradient(student, (slow * towards).sum())
    assert (weights_gradient(student, (fast * towards).sum()) - expected).norm() <= 1e-12 * expected.norm()


@pytest.fixture
def trained() -> Wan:
    return network()


@pytest.fixture
def window_loss(trained):
    """Returns a scalar of a window behind short and long histories, one masked pass with or without the switch."""
    x_t, timestep, clean, towards = latents(4, 5, 2), levels(4, 2), latents(6, 6, 2), latents(4, 7, 2)

    def loss(context_gradient: bool | None) -> Tensor:
        text = text_for(trained, 2)
        if context_gradient is None:  # block by block, the cache written with gradient
            own = [clean[0], clean[1, 2:]]
            return (window_by_blocks(trained, x_t, timestep, text, own, 2, 4, write_with_gradient) * towards).sum()
        return (in_one_pass(trained, x_t, timestep, text, clean, (0, 2), 2, 4, context_gradient) * towards).sum()

    return loss


def slopes(student: Wan, loss: Tensor) -> list[Tensor]:
    """The gradient of `loss` for each weight."""
    weights = list(student.parameters())
    return [g if g is not None else torch.zeros_like(w) for g, w in zip(grads(loss, weights), weights, strict=True)]


def grads(loss: Tensor, weights: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, weights, allow_unused=True)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_gradient_through_the_context_is_that_of_blocks_on_a_cache_written_with_gradient(
    trained, window_loss, checkpointed
):
    slow = torch.cat([g.flatten() for g in slopes(trained, window_loss(None))])
    trained.checkpoint_activations = checkpointed
    try:
        fast, cut = (torch.cat([g.flatten() for g in slopes(trained, window_loss(on))]) for on in (True, False))
    finally:
        trained.checkpoint_activations = False
    assert (fast - slow).norm() <= 1e-12 * slow.norm()
    assert (cut - slow).norm() > 1e-2 * slow.norm(), "and not that of a cache that is given"


def test_only_the_gradient_through_the_context_is_that_of_finite_differences(trained, window_loss):
    directions = [torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(i))
                  for i, w in enumerate(trained.parameters())]  # fmt: skip

    def moved(step: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(trained.parameters(), directions, strict=True):
                weight.add_(direction, alpha=step)
            return float(window_loss(True))

    def slope(on: bool) -> float:
        pairs = zip(slopes(trained, window_loss(on)), directions, strict=True)
        return sum(float((g * direction).sum()) for g, direction in pairs)

    through, cut, step = slope(True), slope(False), 1e-6
    before = [w.detach().clone() for w in trained.parameters()]
    ahead = moved(step)
    behind = moved(-2 * step)
    with torch.no_grad():
        for weight, value in zip(trained.parameters(), before, strict=True):
            weight.copy_(value)
    measured = (ahead - behind) / (2 * step)
    assert through == pytest.approx(measured, rel=1e-6)
    assert cut != pytest.approx(measured, rel=1e-3)
