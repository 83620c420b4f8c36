import numpy
import pytest
import torch

from actors.drift_tracker import RATE, DriftTracker, latent_drift


def test_a_video_strays_as_far_as_its_channels_means_have_moved():
    opening = torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert latent_drift(opening, opening.flip(1, 3)) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([[0.3, -0.1, 0.0], [0.2, 0.0, -0.6]])[:, None, :, None, None]
    assert latent_drift(opening, opening + shift) == pytest.approx((0.3 + 0.1 + 0.2 + 0.6) / 6, rel=1e-5)


def test_a_place_has_the_running_mean_of_what_was_measured_there():
    book = DriftTracker()
    for measured in (1.0, 3.0, 2.0):
        book.note(4, measured)
    once = (1 - RATE) * 1.0 + RATE * 3.0
    assert book.by_block == {4: pytest.approx((1 - RATE) * once + RATE * 2.0)}


def test_a_window_strays_as_its_blocks_do_and_where_nobody_has_been_as_the_worst():
    book = DriftTracker([(0, 0.0), (1, 0.2), (2, 0.6)])
    assert book.of_windows([0, 3, 6, 9], 6, 3) == pytest.approx([0.1, 0.4, 0.6, 0.6])
    assert DriftTracker().of_windows([0, 3], 6, 3) == pytest.approx([1.0, 1.0])


def test_what_is_kept_of_it_is_whole():
    book = DriftTracker([(3, 0.1), (1, 1 / 3)])
    assert DriftTracker(book.state()).by_block == book.by_block
    assert numpy.array_equal(DriftTracker(book.state()).of_windows([3], 6, 3), book.of_windows([3], 6, 3))
