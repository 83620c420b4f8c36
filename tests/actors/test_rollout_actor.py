from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from actors.dispatchers import StudentDispatcher
from actors.rollout_actor import RolloutActor
from actors.rollout_config import RolloutConfig, WindowConfig
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.noise import BlockNoise
from models.records import STUDENT, MadeBlock, Rollout, Window, WindowPlan
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.weight_source import SHAPE, FakeWeightSource, weights

WINDOW = WindowConfig(frames=6, burn_in_frames=3)
KEPT = SHAPE.context_frames + WINDOW.burn_in_frames


def dispatched(batch: int = 2, windows: int = 6, frames: int = 30, seed: int = 0) -> list[Rollout]:
    rollout = RolloutConfig(frames=frames, batch=batch, windows=windows)
    window = replace(WINDOW, gradient_step="drawn")
    return StudentDispatcher(SHAPE, rollout, window, 3, PROMPTS, seed).rollouts(0)


def planned(*plans: WindowPlan, seed: int = 7) -> Rollout:
    numbered = tuple(replace(plan, index=i) for i, plan in enumerate(plans))
    return Rollout(id=0, attempt=0, prompt=PROMPTS[0], seed=seed, frames=30, windows=numbered)


def make(rollouts: Sequence[Rollout], source: FakeWeightSource | None = None) -> list[Window]:
    return [item for item in stream(rollouts, source) if isinstance(item, Window)]


def stream(
    rollouts: Sequence[Rollout],
    source: FakeWeightSource | None = None,
    made: Sequence[MadeBlock] = (),
    window: WindowConfig = WINDOW,
) -> list[Window | MadeBlock]:
    return list(
        RolloutActor(SHAPE, window, encode_text, TinyCodec(), source or FakeWeightSource()).windows(rollouts, made)
    )


def whole_videos(rollouts: Sequence[Rollout], frames: int) -> tuple[Tensor, list[Tensor]]:
    """Everything the sampler makes with the weights of version 0: latents [B F C H W], and inputs of each step."""
    student = Wan(SHAPE.wan)
    student.load_state_dict(weights(0).tensors)
    noise = BlockNoise([rollout.seed for rollout in rollouts], (3, *SHAPE.frame_shape))
    text = encode_text([rollout.prompt for rollout in rollouts])
    cache = KVCache(SHAPE.wan, SHAPE.context_frames)
    blocks = stream_blocks(student, text, noise, warped_sigmas(SHAPE.timesteps, SHAPE.shift), cache)
    made = list(islice(blocks, frames // 3))
    inputs = [torch.cat([block.inputs[step] for block in made], dim=1) for step in range(4)]
    return torch.cat([block.x0 for block in made], dim=1), inputs


@pytest.mark.parametrize("seed", range(3))
def test_every_planned_window_comes_out_exactly_once_and_as_planned(seed):
    rollouts = dispatched(seed=seed)
    asked = Counter((rollout.id, plan) for rollout in rollouts for plan in rollout.windows)
    made = make(rollouts)
    assert Counter((w.rollout, WindowPlan(w.role, w.start, w.step, w.index)) for w in made) == asked
    by_id = {rollout.id: rollout for rollout in rollouts}
    assert all((w.prompt, w.seed) == (by_id[w.rollout].prompt, by_id[w.rollout].seed) for w in made)


def test_windows_come_out_in_the_order_in_which_they_are_finished():
    starts = [window.start for window in make(dispatched())]
    assert starts == sorted(starts) and len(set(starts)) > 3


def test_a_window_and_its_context_are_cut_from_the_video_that_the_sampler_makes():
    rollouts = dispatched()
    videos, inputs = whole_videos(rollouts, 30)
    for window in make(rollouts):
        i, first, end = window.rollout, window.start, window.start + 6
        assert torch.equal(window.latents, videos[i, first:end])
        assert torch.equal(window.noisy, inputs[window.step][i, first:end])
        assert torch.equal(window.context, videos[i, max(0, first - KEPT) : first])


def test_a_context_is_shorter_where_the_video_is_younger_and_never_longer_than_asked_for():
    plans = [WindowPlan(STUDENT, start, 3, 0) for start in range(0, 25, 3)]
    lengths = {window.start: len(window.context) for window in make([planned(*plans)])}
    assert lengths == {start: min(start, KEPT) for start in range(0, 25, 3)}
    assert lengths[0] == 0 and lengths[24] == KEPT == 9


def test_a_rollout_stops_after_the_last_block_that_a_window_needs():
    source = FakeWeightSource()
    make([planned(WindowPlan(STUDENT, 0, 3, 0), WindowPlan(STUDENT, 9, 3, 0))], source)
    assert source.polls == 1 + 5  # once at the start and once after each of five blocks, of the ten planned


def test_a_window_is_yielded_as_soon_as_its_last_block_exists():
    source = FakeWeightSource()
    windows = RolloutActor(SHAPE, WINDOW, encode_text, TinyCodec(), source).windows(
        [planned(WindowPlan(STUDENT, 0, 3, 0), WindowPlan(STUDENT, 24, 3, 0))]
    )
    assert [next(windows).index for _ in range(2)] == [0, 1]  # two blocks
    assert next(windows).start == 0
    assert source.polls == 2  # the second block is finished, and nothing was asked for after it


def test_new_weights_are_taken_up_at_the_next_block_and_every_block_says_which_made_it():
    plans = [WindowPlan(STUDENT, start, 3, 0) for start in range(0, 25, 3)]
    for window in make([planned(*plans)], FakeWeightSource(blocks_per_version=2)):
        first, end = window.start - len(window.context), window.start + 6
        assert window.versions == tuple(block // 2 for block in range(first // 3, end // 3))
        assert window.version == window.versions[0]


def test_new_weights_change_no_frame_that_was_finished_before_them():
    plans = [WindowPlan(STUDENT, start, 3, 0) for start in range(0, 25, 3)]
    rollout = planned(*plans)
    kept = {window.start: window for window in make([rollout])}
    for window in make([rollout], FakeWeightSource(blocks_per_version=4)):
        old = kept[window.start]
        clean = torch.cat([window.context, window.latents]), torch.cat([old.context, old.latents])
        same = [torch.equal(*blocks) for blocks in zip(*(frames.split(3) for frames in clean), strict=True)]
        assert same == [version == 0 for version in window.versions]


def test_windows_are_bit_equal_when_made_again_from_the_same_seed():
    for one, other in zip(make(dispatched()), make(dispatched()), strict=True):
        for name in ("context", "latents", "noisy"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.rollout, one.index, one.versions) == (other.rollout, other.index, other.versions)


def test_a_video_is_the_same_alone_and_beside_others():
    rollouts = dispatched(batch=3)
    together = [window for window in make(rollouts) if window.rollout == 1]
    for one, other in zip(together, make(rollouts[1:2]), strict=True):
        assert one.index == other.index
        torch.testing.assert_close(one.latents, other.latents, rtol=1e-5, atol=1e-5)


def test_an_actor_goes_on_to_the_next_rollouts_with_the_weights_that_it_has():
    source = FakeWeightSource(blocks_per_version=3)
    actor = RolloutActor(SHAPE, WINDOW, encode_text, TinyCodec(), source)
    rollout = planned(WindowPlan(STUDENT, 0, 3, 0), WindowPlan(STUDENT, 3, 3, 0))
    first, second = (next(w for w in actor.windows([rollout]) if isinstance(w, Window)) for _ in range(2))
    assert (first.versions, second.versions) == ((0, 0), (0, 1))


def test_windows_carry_no_graph():
    assert not any(t.requires_grad for w in make(dispatched(batch=1)) for t in (w.context, w.latents, w.noisy))


def test_a_window_whose_parts_do_not_belong_together_is_refused():
    window = make([planned(WindowPlan(STUDENT, 3, 3, 0))])[0]
    with pytest.raises(ValueError, match=r"noisy.*\[3, "):
        replace(window, noisy=window.noisy[:3])


@pytest.mark.parametrize("lost_after", range(1, 10))
def test_a_video_continued_by_another_actor_from_its_streamed_blocks_is_the_same_video(lost_after):
    """Exact when the blocks that are kept reach back as far as the layers can see."""
    window = replace(WINDOW, burn_in_frames=(SHAPE.wan.num_layers - 1) * SHAPE.context_frames)
    plans = [WindowPlan(STUDENT, start, 3, 0) for start in range(0, 25, 3)]
    rollout = planned(*plans)
    whole = stream([rollout], window=window)
    before = [item for item in whole if isinstance(item, MadeBlock)][:lost_after]
    after = [item for item in stream([rollout], made=before, window=window) if isinstance(item, Window)]
    expected = [w for w in whole if isinstance(w, Window) and w.start + 6 > 3 * lost_after]
    assert [w.index for w in after] == [w.index for w in expected]
    for one, other in zip(after, expected, strict=True):
        for name in ("context", "latents", "noisy"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


def test_a_few_videos_of_a_batch_are_continued_without_the_others():
    rollouts = dispatched(batch=3)
    whole = stream(rollouts)
    made = [item.rows([0, 2]) for item in whole if isinstance(item, MadeBlock)][:4]
    after = [item for item in stream([rollouts[0], rollouts[2]], made=made) if isinstance(item, Window)]
    expected = {(w.rollout, w.index): w for w in whole if isinstance(w, Window) and w.start + 6 > 12 and w.rollout != 1}
    assert {(w.rollout, w.index) for w in after} == set(expected) and after
    for window in after:
        other = expected[window.rollout, window.index]
        torch.testing.assert_close(window.latents, other.latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(window.noisy, other.noisy, rtol=1e-5, atol=1e-5)


def test_a_continued_video_says_which_weights_made_which_of_its_blocks():
    rollout = planned(WindowPlan(STUDENT, 6, 3, 0))
    made = [item for item in stream([rollout]) if isinstance(item, MadeBlock)][:3]

    class Newer(FakeWeightSource):
        def newer(self, than):
            return weights(5) if than is None else None

    (window,) = [item for item in stream([rollout], Newer(), made) if isinstance(item, Window)]
    assert window.versions == (0, 0, 0, 5)


def test_a_block_records_only_the_inputs_that_planned_windows_need():
    rollout = planned(WindowPlan(STUDENT, 6, 1, 0), WindowPlan(STUDENT, 9, 3, 0))
    blocks = [item for item in stream([rollout]) if isinstance(item, MadeBlock)]
    assert [sorted(block.inputs) for block in blocks] == [[], [], [1], [1, 3], [3]]
