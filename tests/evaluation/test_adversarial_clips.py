import pytest
import torch

from evaluation.adversarial_clips import adversarial_clips, reference_clip
from rewards.flow.optical_flow import DisFlow
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig

SIZE, FRAMES = (96, 160), 33
"""The law holds at 240x416 and 81 frames too, which takes 20 times as long: `python -m rewards.try clips=true`."""


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    flow = DisFlow()

    def seen(pixels: torch.Tensor, reference: Clip | None) -> Clip:
        return Clip("", pixels, torch.zeros(0), flow(pixels), reference)

    reference = seen(reference_clip(FRAMES, SIZE), None)
    return {name: seen(pixels, reference) for name, pixels in adversarial_clips(FRAMES, SIZE).items()}


def scores(clips: dict[str, Clip], name: str) -> dict[str, float]:
    answered = make_reward(name, RewardConfig())(list(clips.values()))
    return dict(zip(clips, answered.tolist(), strict=True))


def test_the_raw_composite_ranks_smooth_first_and_every_spoiled_clip_below_half_of_it(clips):
    score = scores(clips, "continuity")
    assert max(score, key=score.get) == "smooth" and score["smooth"] > 0.9
    for spoiled in ("static", "stall", "cut", "burst", "jitter", "noise", "brightening", "creep"):
        assert score[spoiled] < score["smooth"] / 2, spoiled
    assert score["fast"] > score["slow"] > score["creep"] > score["static"]


def test_the_composite_is_the_product_of_its_factors_and_each_stays_within_0_and_1(clips):
    factors = [scores(clips, name) for name in ("flow_continuity", "exposure_drift", "sharpness_drift", "no_cut")]
    for name, composite in scores(clips, "continuity").items():
        product = 1.0
        for factor in factors:
            assert 0 <= factor[name] <= 1
            product *= factor[name]
        assert composite == pytest.approx(product, rel=1e-5, abs=1e-9)


def test_each_factor_sees_what_the_others_are_blind_to(clips):
    flow, exposure = scores(clips, "flow_continuity"), scores(clips, "exposure_drift")
    sharpness, cut = scores(clips, "sharpness_drift"), scores(clips, "no_cut")
    assert flow["brightening"] > 0.95 and exposure["brightening"] < 0.5
    assert flow["static"] == 0 and min(exposure["static"], sharpness["static"], cut["static"]) > 0.95
    assert cut["cut"] < 0.01 and min(exposure["cut"], sharpness["cut"]) > 0.95


def test_clips_depend_on_their_seed_alone():
    first, again, other = (adversarial_clips(5, (24, 40), seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["smooth"], other["smooth"])
    assert all(pixels.min() >= 0 and pixels.max() <= 1 for pixels in first.values())
    assert {tuple(pixels.shape) for pixels in first.values()} == {(5, 3, 24, 40)}
