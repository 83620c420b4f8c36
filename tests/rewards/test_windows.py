from itertools import pairwise

import pytest
import torch

from rewards.flow.optical_flow import Flow
from rewards.reward import Clip
from rewards.windows import cut_windows


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
