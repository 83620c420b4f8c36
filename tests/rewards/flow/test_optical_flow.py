import math

import numpy
import pytest
import torch

from evaluation.adversarial_clips import textured_wall
from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video
from rewards.flow.flow_motion import coherent, fastest
from rewards.flow.optical_flow import DisFlow, Flow, displaced, inconsistent, squared_gradient
from rewards.object_motion import prompted_speed

HEIGHT, WIDTH = 9, 11


def shifted(dx: int, dy: int, frames: int = 3) -> torch.Tensor:
    """A camera that sees a wall move by (dx, dy) pixels per frame."""
    wall = torch.from_numpy(textured_wall((120, 200), 0)).permute(2, 0, 1)
    return torch.stack([wall.roll((t * dy, t * dx), (1, 2))[:, 40:168, 40:240] for t in range(frames)])


def random_flow(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(2, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def slowly_read(values: numpy.ndarray, x: float, y: float) -> numpy.ndarray:
    """values [C h w] at (x, y), bilinearly; beyond the edge, the edge."""
    x, y = min(max(x, 0), WIDTH - 1), min(max(y, 0), HEIGHT - 1)
    left, top = min(int(x), WIDTH - 2), min(int(y), HEIGHT - 2)
    a, b = x - left, y - top
    upper = (1 - a) * values[:, top, left] + a * values[:, top, left + 1]
    lower = (1 - a) * values[:, top + 1, left] + a * values[:, top + 1, left + 1]
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (-4, 3)])
def test_a_known_shift_is_measured_within_a_fifth_of_a_pixel(shift):
    flow = DisFlow()(shifted(*shift))
    for pair in range(2):
        for axis in (0, 1):
            inner = flow.forward[pair, axis, 16:-16, 16:-16]
            assert inner.median().item() == pytest.approx(shift[axis], abs=0.2)
            assert flow.backward[pair, axis, 16:-16, 16:-16].median().item() == pytest.approx(-shift[axis], abs=0.2)


def test_flow_of_an_enlarged_frame_is_in_its_larger_pixels():
    flow = DisFlow(upsample=2)(shifted(2, 0))
    assert flow.forward.shape == (2, 2, 256, 400)
    assert flow.forward[:, 0, 32:-32, 32:-32].median().item() == pytest.approx(4, abs=0.4)


def test_identical_frames_do_not_move_and_nothing_about_them_is_invalid():
    flow = DisFlow()(shifted(3, 0)[:1].expand(4, -1, -1, -1))
    moved, invalid = fastest(flow, 1.0)
    assert moved.tolist() == invalid.tolist() == [0, 0, 0]


def test_a_step_of_brightness_is_hardly_motion():
    still = shifted(3, 0)[:1]
    moved, _ = fastest(DisFlow()(torch.cat([still, still + 12 / 255])), 1.0)
    assert moved.item() < 0.05


def test_a_single_frame_has_no_pairs():
    assert DisFlow()(shifted(1, 0)[:1]).forward.shape == (0, 2, 128, 200)


def test_displaced_values_equal_reading_them_pixel_by_pixel():
    values, flow = random_flow(0), random_flow(1)
    read = displaced(values, flow)
    for pair in range(2):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                fx, fy = flow[pair, :, y, x].tolist()
                expected = slowly_read(values[pair].numpy(), x + fx, y + fy)
                assert read[pair, :, y, x].numpy() == pytest.approx(expected, abs=1e-5)


def test_consistency_and_motion_equal_the_formula_written_slowly():
    forward = random_flow(0)
    backward = -forward + 0.7 * random_flow(1, 1.0)
    seen = random_flow(2)[:, 0].square()
    flow = Flow.of(forward, backward, seen)
    share = 0.25
    for pair in range(2):
        lengths, invalid, vectors = [], [], []
        for y in range(HEIGHT):
            for x in range(WIDTH):
                there = forward[pair, :, y, x].numpy()
                back = slowly_read(backward[pair].numpy(), x + there[0], y + there[1])
                gap = math.sqrt(((there + back) ** 2).sum())
                invalid.append(gap > 0.5 + 0.01 * ((there**2).sum() + (back**2).sum()))
                lengths.append(math.sqrt((there**2).sum()))
                vectors.append(seen[pair, y, x].item() * there * (not invalid[-1]))
        assert 0 < sum(invalid) < len(invalid)
        assert inconsistent(forward, backward)[pair].flatten().tolist() == invalid
        wrong = sum(invalid) / len(invalid)
        longest = sorted(lengths)[-round(share * len(lengths)) :]
        moved, measured = fastest(flow, share)
        assert measured[pair].item() == pytest.approx(wrong)
        assert moved[pair].item() == pytest.approx(sum(longest) / len(longest) * (1 - wrong), rel=1e-5)
        assert fastest(flow, 1.0)[0][pair].item() == pytest.approx(sum(lengths) / len(lengths) * (1 - wrong), rel=1e-5)
        moved, measured = coherent(flow)
        assert measured[pair].item() == pytest.approx(wrong)
        expected = math.sqrt(((sum(vectors) / seen[pair].sum().item()) ** 2).sum())
        assert moved[pair].item() == pytest.approx(expected, rel=1e-4)


def test_texture_is_the_squared_gradient_by_central_differences_and_one_sided_ones_at_the_edge():
    grey = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    found = squared_gradient(grey)
    across = (grey[1, 2, 4] - grey[1, 2, 2]) / 2
    assert found[1, 2, 3].item() == pytest.approx((((grey[1, 3, 3] - grey[1, 1, 3]) / 2) ** 2 + across**2).item())
    edge, across = grey[0, 1, 3] - grey[0, 0, 3], (grey[0, 0, 4] - grey[0, 0, 2]) / 2
    assert found[0, 0, 3].item() == pytest.approx((edge**2 + across**2).item())


def test_things_that_move_apart_are_fast_and_not_coherent_and_a_blank_picture_does_not_move():
    there = torch.ones(1, 2, 4, 6) * torch.tensor([1.0, 0.0]).view(2, 1, 1)
    there[..., :3] *= -1
    both = Flow.of(there, -there, torch.ones(1, 4, 6))
    one_seen = Flow.of(there, -there, torch.ones(1, 4, 6) * (torch.arange(6) < 3))
    blank = Flow.of(there, -there, torch.zeros(1, 4, 6))
    assert not both.invalid.any()
    assert fastest(both, 1.0)[0].item() == pytest.approx(1)
    assert [coherent(flow)[0].item() for flow in (both, one_seen, blank)] == pytest.approx([0, 1, 0])


def test_pairs_between_two_frames_are_those_of_the_frames_alone():
    pixels = shifted(2, 1, 6)
    whole, part = DisFlow()(pixels), DisFlow()(pixels[2:5])
    assert torch.equal(whole.between(2, 4).forward, part.forward)
    assert torch.equal(whole.between(2, 4).backward, part.backward)
    assert torch.equal(whole.between(2, 4).texture, part.texture)


def test_frames_too_small_for_flow_are_refused_with_the_key():
    with pytest.raises(ConfigError, match=r"^reward\.upsample=1: .*8x16"):
        DisFlow()(torch.zeros(2, 3, 8, 16))


def test_at_the_finest_level_more_is_seen_of_what_is_small_in_its_frame():
    videos = [sample_video(prompt, 12, torch.Generator().manual_seed(7)) for prompt in PROMPTS[::18]]

    def seen(finest_scale: int) -> float:
        engine = DisFlow(8, finest_scale)
        return torch.cat([fastest(engine(video), 0.2)[0] for video in videos]).mean().item()

    true = 8 * prompted_speed(PROMPTS[::18]).mean().item()
    assert seen(2) < 0.9 * seen(0) < 0.9 * true
