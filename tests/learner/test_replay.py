from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from actors.rollout_actor import RolloutActor
from actors.rollout_config import WindowConfig
from learner.replay import Batch, backward_noise, blockwise_x0, collate, masked_x0
from models.flow_matching import warped_sigmas
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import STUDENT, Rollout, Weights, Window, WindowPlan
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.fixed_weights import FixedWeights

SHAPE = StudentConfig(height=8, width=4, attention_frames=9)
FULL = (SHAPE.wan.num_layers - 1) * SHAPE.context_frames
"""Burn-in behind which nothing that a window's cache has ever seen is out of sight: 18 frames."""
SIGMAS = warped_sigmas(SHAPE.timesteps, SHAPE.shift)
STARTS = (0, 3, 6, 15, 24, 27, 33)
"""No history, histories shorter than context and burn-in, and windows long past the first roll of the cache."""


@pytest.fixture(scope="module")
def student() -> Wan:
    """Random weights, with gates far from their initial values: what the cache holds matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Wan(SHAPE.wan)
        for p in network.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.3 if p.ndim != 2 else 0.1)
    return network


@pytest.fixture(scope="module")
def roll_out(student) -> Callable[..., list[Window]]:
    """Windows that a real actor cuts from two videos, with full burn-in."""

    def make(steps: tuple[int, ...] = (3,), starts: tuple[int, ...] = STARTS) -> list[Window]:
        drawn = enumerate((start, step) for start in starts for step in steps)
        plans = tuple(WindowPlan(STUDENT, start, step, index) for index, (start, step) in drawn)
        rollouts = [Rollout(i, 0, PROMPTS[5 * i], 40 + i, 39, plans) for i in range(2)]
        window = WindowConfig(frames=6, burn_in_frames=FULL)
        made = RolloutActor(SHAPE, window, encode_text, TinyCodec(), FixedWeights(Weights.of(0, student))).windows(
            rollouts
        )
        return [item for item in made if isinstance(item, Window)]

    return make


@pytest.fixture(scope="module")
def windows(roll_out) -> list[Window]:
    return roll_out()


def batch_of(windows: list[Window]) -> Batch:
    return collate(windows, encode_text, torch.device("cpu"))


def levels_of(windows: list[Window]) -> Tensor:
    return torch.tensor([SIGMAS[window.step] for window in windows])


def rebuilt(student: Wan, windows: list[Window]) -> Tensor:
    """The student's x0 of the recorded inputs, in one masked pass."""
    with torch.no_grad():
        batch = batch_of(windows)
        return masked_x0(student, SHAPE, batch, batch.noisy, levels_of(windows))


def distances(x0: Tensor, expected: Tensor) -> Tensor:
    """Relative L2 distance [B]."""
    return (x0 - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


def with_burn_in(window: Window, frames: int) -> Window:
    """The window with less of its history."""
    kept = min(len(window.context), SHAPE.context_frames + frames)
    return replace(window, context=window.context[len(window.context) - kept :])


def test_the_cache_rebuilt_with_full_burn_in_gives_the_x0_that_the_actor_recorded(student, windows):
    assert {window.start for window in windows} == set(STARTS)
    recorded = torch.stack([window.latents for window in windows])
    assert distances(rebuilt(student, windows), recorded).max() <= 1e-5


def test_a_window_is_rebuilt_alike_alone_and_beside_windows_with_more_history(student, windows):
    together = rebuilt(student, windows)
    for window, x0 in zip(windows, together, strict=True):
        assert distances(rebuilt(student, [window]), x0[None]).max() <= 1e-5


def test_a_window_generated_again_block_by_block_is_the_one_that_the_actor_recorded(student, windows):
    with torch.no_grad():
        x0 = blockwise_x0(student, SHAPE, batch_of(windows), SIGMAS)
    assert distances(x0, torch.stack([window.latents for window in windows])).max() <= 1e-5


def test_one_masked_pass_equals_block_by_block_at_whichever_step_is_recorded(student, roll_out):
    windows = roll_out(steps=(0, 1, 2, 3), starts=(0, 3, 27))
    with torch.no_grad():
        slow = blockwise_x0(student, SHAPE, batch_of(windows), SIGMAS)
    assert distances(rebuilt(student, windows), slow).max() <= 1e-5


@pytest.mark.parametrize("step", [0, 3])
def test_both_ways_give_the_weights_the_same_gradient(student, roll_out, step):
    windows = roll_out(steps=(step,), starts=(3, 27))
    batch = batch_of(windows)
    towards = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    fast, slow = (
        torch.cat([g.flatten() for g in torch.autograd.grad((x0 * towards).sum(), list(student.parameters()))])
        for x0 in (
            masked_x0(student, SHAPE, batch, batch.noisy, levels_of(windows)),
            blockwise_x0(student, SHAPE, batch, SIGMAS),
        )
    )
    assert (fast - slow).norm() <= 1e-4 * slow.norm()


def test_a_shorter_burn_in_rebuilds_worse_and_the_error_falls_with_its_length(student, windows):
    late = [window for window in windows if window.start >= FULL + SHAPE.context_frames]
    recorded = torch.stack([window.latents for window in late])
    errors = [
        distances(rebuilt(student, [with_burn_in(window, frames) for window in late]), recorded).mean().item()
        for frames in (0, 6, 12, FULL)
    ]
    assert all(more > 3 * less for more, less in pairwise(errors)), errors
    assert errors[0] > 1e-3


def test_a_longer_burn_in_than_the_full_one_changes_nothing(student, roll_out):
    window = roll_out(starts=(33,))[0]
    longer = replace(window, context=torch.cat([torch.full_like(window.context[:6], 9.0), window.context]))
    assert distances(rebuilt(student, [longer]), rebuilt(student, [window])).max() <= 1e-5


def test_no_clean_frame_of_the_window_itself_is_seen_by_its_own_block_or_an_earlier_one(student, windows):
    window = windows[-1]
    changed = replace(window, latents=torch.cat([window.latents[:3], window.latents[3:] + 1]))
    assert torch.equal(rebuilt(student, [changed]), rebuilt(student, [window]))
    changed = replace(window, latents=torch.cat([window.latents[:3] + 1, window.latents[3:]]))
    after, before = rebuilt(student, [changed]), rebuilt(student, [window])
    assert torch.equal(after[:, :3], before[:, :3]) and not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-2)


def test_collating_fills_short_histories_up_on_the_left(windows):
    batch = batch_of(windows)
    longest = max(len(window.context) for window in windows)
    for i, window in enumerate(windows):
        padding, frames = batch.past.padding[i], batch.past.frames[i]
        assert batch.past.rows[i] == i and padding == longest - len(window.context)
        assert torch.equal(frames[padding:], window.context) and not frames[:padding].any()
        assert torch.equal(batch.latents[i], window.latents) and torch.equal(batch.noisy[i], window.noisy)
        assert torch.equal(batch.text[i], encode_text([window.prompt])[0])


def arguments() -> tuple[Tensor, ...]:
    """Recorded inputs and their levels, clean latents, drawn levels and noise for two samples."""
    generator = torch.Generator().manual_seed(0)
    recorded, latents, noise = torch.randn(3, 2, 6, 3, 8, 4, generator=generator).unbind()
    return recorded, torch.tensor([0.5, 0.9]), latents, torch.tensor([1.0, 0.75]), noise


def test_recorded_backward_noise_gives_the_rollouts_own_inputs_untouched():
    x_t, sigma = backward_noise("recorded", *arguments())
    assert torch.equal(x_t, arguments()[0]) and sigma.tolist() == pytest.approx([0.5, 0.9])


def test_fresh_backward_noise_noises_the_clean_latents_to_the_drawn_level():
    _, _, latents, drawn, noise = arguments()
    x_t, sigma = backward_noise("fresh", *arguments())
    assert torch.equal(sigma, drawn)
    for i, level in enumerate(drawn.tolist()):
        torch.testing.assert_close(x_t[i], (1 - level) * latents[i] + level * noise[i])


def test_recorded_inputs_satisfy_equation_1_with_x0_recomputed_one_step_earlier(student, roll_out):
    by_step = {(w.rollout, w.start, w.step): w for w in roll_out(steps=(0, 1, 2, 3), starts=(0, 27))}
    for (rollout, start, step), window in by_step.items():
        noise = BlockNoise([window.seed], (3, *SHAPE.frame_shape))
        drawn = torch.cat([noise.draw(block, step)[0] for block in (start // 3, start // 3 + 1)])
        expected = drawn
        if step:
            x0 = rebuilt(student, [by_step[rollout, start, step - 1]])[0]
            expected = (1 - SIGMAS[step]) * x0 + SIGMAS[step] * drawn
        assert distances(window.noisy[None], expected[None]).max() <= 1e-5
