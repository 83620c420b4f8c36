import math

import numpy
import pytest
import torch

from rewards.cut import NoCut, colour_jump, cut_score, residual
from rewards.flow.optical_flow import DisFlow, Flow
from rewards.reward import Clip
from rewards.reward_config import RewardConfig


def pixels(seed: int, frames: int = 3) -> torch.Tensor:
    return torch.rand(frames, 3, 6, 7, generator=torch.Generator().manual_seed(seed))


def test_the_residual_of_whole_pixel_flow_equals_the_difference_to_the_shifted_frame():
    video, there = pixels(0), torch.zeros(2, 2, 6, 7)
    there[:, 0] = 2
    found = residual(video, Flow.of(there, -there, there[:, 0]))
    y = (0.299 * video[:, 0] + 0.587 * video[:, 1] + 0.114 * video[:, 2]).numpy()
    for t in range(2):
        columns = numpy.minimum(numpy.arange(7) + 2, 6)
        unexplained = numpy.abs(y[t + 1][:, columns] - y[t]).mean()
        assert found[t].item() == pytest.approx(unexplained / (y[t].std(ddof=1) + 0.02), rel=1e-4)


def test_the_jump_of_colours_equals_the_count_bin_by_bin():
    video = pixels(1)
    video[2, 0] = 1.0
    found = colour_jump(video)
    for t in range(2):
        channels = []
        for c in range(3):
            before, after = ([min(int(v * 16), 15) for v in video[s, c].flatten().tolist()] for s in (t, t + 1))
            channels.append(sum(abs(before.count(b) - after.count(b)) for b in range(16)) / 42 / 2)
        assert found[t].item() == pytest.approx(sum(channels) / 3, rel=1e-4)


def test_uncut_is_of_the_worst_pair_beyond_the_references_median():
    reference = torch.tensor([[0.1, 0.0], [0.3, 0.1], [0.2, 0.9]])
    evidence = torch.tensor([[0.2, 0.1], [0.5, 0.3], [0.1, 0.0]])
    expected = math.exp(-((0.3 / 0.3) ** 2 + (0.2 / 0.25) ** 2))
    assert cut_score(evidence, reference, torch.tensor([0.3, 0.25])).item() == pytest.approx(expected, rel=1e-5)


def test_less_change_than_in_the_reference_is_no_cut():
    reference = torch.full((4, 2), 0.5)
    assert cut_score(torch.zeros(3, 2), reference, torch.tensor([0.3, 0.25])).item() == 1


def test_a_single_frame_or_no_reference_tells_nothing():
    video, flow = pixels(0, 4).repeat(1, 1, 4, 4), DisFlow()
    reference = Clip("", video, torch.zeros(0), flow(video))
    lonely = Clip("", video[:1], torch.zeros(0), flow(video[:1]), reference)
    assert NoCut(RewardConfig())([lonely, reference]).isnan().all()
