import logging
import math
import re
import sys
import threading
import time
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video, to_latents, to_pixels
from rewards.flow.optical_flow import DisFlow, Flow
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer, cut_windows

RELEASED = threading.Event()


class Plugin:
    """A reward of the tests, found by its dotted path."""

    needs = frozenset({"pixels"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self.asked = []


class Raises(Plugin):
    def __call__(self, clips):
        raise RuntimeError("no\nmodel")


class Hangs(Plugin):
    def __call__(self, clips):
        RELEASED.wait()
        return torch.zeros(len(clips))


class Undecided(Plugin):
    def __call__(self, clips):
        scores = torch.arange(len(clips)).float()
        scores[0], scores[1] = torch.nan, torch.inf
        return scores


class WrongShape(Plugin):
    def __call__(self, clips):
        return torch.zeros(len(clips), 1)


class Nothing(Plugin):
    def __call__(self, clips):
        return None


class Leaves(Plugin):
    def __call__(self, clips):
        raise SystemExit


class Length(Plugin):
    def __call__(self, clips):
        return torch.tensor([float(len(clip.pixels)) for clip in clips])


class Together(Plugin):
    scope = "group"

    def __call__(self, clips):
        # Wholes of a group: the rank of each member's brightness.
        return torch.stack([clip.pixels.mean() for clip in clips]).argsort().argsort().float()


class FirstFrame(Plugin):
    def __call__(self, clips):
        return torch.stack([clip.pixels[0].mean() for clip in clips])


class SeesFlow(Plugin):
    def __call__(self, clips):
        return torch.tensor([float(clip.flow is not None) for clip in clips])


class SeesReferences(Plugin):
    seen: ClassVar[list[Clip]] = []

    def __call__(self, clips):
        SeesReferences.seen = list(clips)
        return torch.zeros(len(clips))


class RecordsGradients(Plugin):
    def __call__(self, clips):
        return torch.full((len(clips),), float(torch.is_grad_enabled()))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "plugins", sys.modules[__name__])


def path(plugin: type) -> str:
    return f"plugins.{plugin.__name__}"


def group(members: int, frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_latents(torch.stack([sample_video(PROMPTS[3], frames, generator) for _ in range(members)]))


def score(names, latents, before=None, reference=None, motion_reference=None, **keys):
    config = RewardConfig(window_frames=6, upsample=4, top_share=0.1, **keys)
    return Scorer(config, names, to_pixels).score(PROMPTS[3], latents, before, reference, motion_reference)


def missing(values):
    return all(math.isnan(value) for member in values for value in member)


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (Raises, "RuntimeError: no model"),
        (WrongShape, r"\[6, 1\] .*\b6\b"),
        (Nothing, "NoneType"),
        (Leaves, "SystemExit"),
    ],
)
def test_a_reward_that_fails_is_missing_and_says_why_and_the_others_are_unharmed(plugin, reason, caplog):
    caplog.set_level(logging.WARNING, "rewards.attempt")
    alone = score(["exposure_drift"], group(3, 12))
    both = score([path(plugin), "exposure_drift"], group(3, 12))
    assert missing(both.values[path(plugin)])
    assert both.failures.keys() == {path(plugin)} and not both.hung
    assert re.search(reason, both.failures[path(plugin)])
    assert both.values["exposure_drift"] == alone.values["exposure_drift"]
    assert len([record for record in caplog.records if path(plugin) in record.getMessage()]) == 1


def test_a_reward_that_hangs_is_given_up_in_time_and_the_caller_is_told():
    RELEASED.clear()
    try:
        began = time.monotonic()
        both = score([path(Hangs), path(Length)], group(2, 12), timeout_s=0.2)
        assert time.monotonic() - began < 5
        assert both.hung and missing(both.values[path(Hangs)])
        assert "reward.timeout_s=0.2" in both.failures[path(Hangs)]
        assert not missing(both.values[path(Length)])
    finally:
        RELEASED.set()


def test_a_reward_that_was_late_is_asked_again_when_it_has_ended_and_not_before():
    RELEASED.clear()
    scorer = Scorer(RewardConfig(window_frames=6, timeout_s=0.2), [path(Hangs)], to_pixels)

    def scored():
        return scorer.score(PROMPTS[3], group(2, 12), None, None)

    try:
        assert scored().hung
        (late,) = (thread for thread in threading.enumerate() if thread.name == f"reward {path(Hangs)}")
        again = scored()
        assert path(Hangs) in again.failures and not again.hung
    finally:
        RELEASED.set()
    late.join(10)
    after = scored()
    assert not after.failures and not missing(after.values[path(Hangs)])


def test_only_the_clips_without_a_finite_score_are_missing():
    scores = score([path(Undecided)], group(2, 12))
    (first, second), rest = scores.values[path(Undecided)]
    assert math.isnan(first) and math.isnan(second) and rest == [2.0, 3.0]
    assert "2 of 4 clips" in scores.failures[path(Undecided)]


def test_windows_overlap_by_the_frame_before_them_where_there_is_one():
    latents = group(2, 19)
    assert score([path(Length)], latents[:, 1:], before=latents[0, :1]).values[path(Length)] == [[7, 7, 7]] * 2
    assert score([path(Length)], latents[:, 1:]).values[path(Length)] == [[6, 7, 7]] * 2
    first = score([path(FirstFrame)], latents[:, 1:], before=latents[0, :1]).values[path(FirstFrame)]
    seen = to_pixels(latents)
    assert first[1] == pytest.approx(
        [seen[0, 0].mean().item(), seen[1, 6].mean().item(), seen[1, 12].mean().item()], abs=1e-6
    )


def test_a_group_reward_is_asked_about_one_window_of_all_members_at_a_time():
    latents = group(3, 12)
    latents = latents - latents.mean((2, 3, 4), keepdim=True)
    latents[:, :6] += torch.tensor([0.1, 0.3, 0.2])[:, None, None, None, None]
    latents[:, 6:] += torch.tensor([0.3, 0.2, 0.1])[:, None, None, None, None]
    assert score([path(Together)], latents).values[path(Together)] == [[0, 2], [2, 1], [1, 0]]


def test_flow_is_computed_only_where_a_reward_needs_it():
    assert score([path(SeesFlow)], group(1, 12)).values[path(SeesFlow)] == [[0, 0]]
    assert score([path(SeesFlow), "flow_continuity"], group(1, 12)).values[path(SeesFlow)] == [[1, 1]]


def test_rewards_record_no_gradients():
    assert score([path(RecordsGradients)], group(1, 6)).values[path(RecordsGradients)] == [[0]]


def test_without_a_reference_a_members_first_window_is_its_own_and_all_first_windows_set_the_motion():
    score([path(SeesReferences)], group(2, 12))
    (first, second), (other, last) = SeesReferences.seen[:2], SeesReferences.seen[2:]
    for clip, own in ((first, first), (second, first), (other, other), (last, other)):
        assert clip.reference.pixels.equal(own.pixels)
        assert all(a.pixels.equal(b.pixels) for a, b in zip(clip.motion_reference, (first, other), strict=True))


def test_members_can_share_one_reference():
    latents = group(2, 18)
    score([path(SeesReferences)], latents[:, 6:], latents[0, :6], latents[0, :6])
    for clip in SeesReferences.seen:
        assert clip.reference.latents.equal(latents[0, :6]) and not clip.motion_reference


def test_no_member_lowers_the_bar_of_motion_by_starting_dead():
    moving, still = group(2, 12), group(1, 1).expand(-1, 12, -1, -1, -1)
    late = torch.cat([still[:, :6], moving[:1, 6:]], dim=1)
    among_moving = score(["flow_continuity"], torch.cat([moving, late])).values["flow_continuity"]
    assert among_moving[2][0] == 0  # dead against the members' mean, though not against its own beginning
    assert min(min(member) for member in among_moving[:2]) > 0


def test_a_given_reference_replaces_the_members_own_beginning():
    latents = group(1, 18).expand(2, -1, -1, -1, -1).clone()
    latents[1, :, :] += 1.0  # bright from its very first frame
    own = score(["exposure_drift"], latents[:, 6:]).values["exposure_drift"]
    given = score(["exposure_drift"], latents[:, 6:], latents[0, :6], latents[0, :6]).values["exposure_drift"]
    assert own[1][1] > 0.8 and given[0][1] > 0.8 and given[1][1] < 0.1


def test_the_scorer_agrees_with_asking_the_reward_about_windows_cut_by_hand():
    latents, config = group(1, 19), RewardConfig(window_frames=6, upsample=4, top_share=0.1)
    reference, pixels, flow = to_pixels(latents[0, :6]), to_pixels(latents[0]), DisFlow(4)
    held = Clip(PROMPTS[3], reference, latents[0, :6], flow(reference))
    clips = [
        Clip(PROMPTS[3], pixels[a : a + 7], latents[0], flow(pixels[a : a + 7]), held)
        for a in (0, 6, 12)
    ]  # fmt: skip
    slow = make_reward("continuity", config)(clips).tolist()
    fast = score(["continuity"], latents[:, 1:], latents[0, :1], latents[0, :6]).values["continuity"]
    assert fast[0] == pytest.approx(slow, rel=1e-5)


def test_what_members_share_before_their_windows_counts_in_each_of_them():
    config = {"window_frames": 3, "upsample": 4, "top_share": 0.1, "lead_frames": 5}
    whole = group(3, 18)
    past, own = whole[0, :9], whole[:, 9:]
    videos = torch.cat([past.expand(3, -1, -1, -1, -1), own], dim=1)
    reference, flow = to_pixels(past), DisFlow(4)
    held = Clip(PROMPTS[3], reference, past, flow(reference))
    slow = [
        [
            Clip(PROMPTS[3], seen := to_pixels(video)[first - 5 : first + 3], video, flow(seen), held)
            for first in (9, 12, 15)
        ]
        for video in videos
    ]
    slow = [make_reward("flow_continuity", RewardConfig(**config))(clips).tolist() for clips in slow]
    scorer = Scorer(RewardConfig(**config), ["flow_continuity"], to_pixels)
    fast = scorer.score(PROMPTS[3], own, past, past).values["flow_continuity"]
    assert torch.tensor(fast) == pytest.approx(torch.tensor(slow), rel=1e-5)


def test_a_segment_that_is_no_whole_number_of_windows_is_refused_with_the_key():
    with pytest.raises(ConfigError) as caught:
        score(["exposure_drift"], group(1, 13))
    assert caught.value.key == "reward.window_frames" and caught.value.value == 6


def test_a_bar_of_another_model_that_moved_more_asks_for_more_motion():
    latents, names = group(1, 18), ["flow_continuity"]
    own, raised = (
        score(names, latents[:, 6:], latents[0, :6], latents[0, :6], moving, floor_share=1.0).values[names[0]][0]
        for moving in (None, latents[0, :18:3])  # the same path, every third frame of it
    )
    assert all(high < low for high, low in zip(raised, own, strict=True))


def segment(latent_frames: int, frames: int) -> Clip:
    """Pixels and flow that say which frame and pair they are."""
    numbers = torch.arange(frames).float()[:, None, None, None]
    there = torch.arange(frames - 1).float()[:, None, None, None].expand(-1, 2, 1, 1)
    return Clip(
        "p", numbers.expand(-1, 3, 1, 1), torch.zeros(latent_frames, 1, 1, 1), Flow.of(there, -there, there[:, 0])
    )


def numbers(clip: Clip) -> list[int]:
    return clip.pixels[:, 0, 0, 0].int().tolist()


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("context", [0, 1])
def test_windows_take_every_pair_once_and_flow_stays_with_its_frames(stride, context):
    decoded = 6 + context
    windows = cut_windows(segment(6, 1 + stride * (decoded - 1)), decoded, 2)
    assert [len(window.latents) for window in windows] == [2, 2, 2]
    assert [numbers(a)[-1] == numbers(b)[0] for a, b in pairwise(windows)] == [True, True]
    pairs = [int(pair) for window in windows for pair in window.flow.forward[:, 0, 0, 0]]
    assert pairs == list(range(stride * (decoded - 1)))
    for window in windows:
        assert window.flow.forward[:, 0, 0, 0].int().tolist() == numbers(window)[:-1]
        assert len(window.pixels) == 1 + stride * 2 or (window is windows[0] and not context)


def test_a_decoder_that_makes_unequally_many_frames_is_refused():
    with pytest.raises(ValueError):
        cut_windows(segment(3, 6), 3, 3)
