import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.frequencies import low_frequency_dct, low_pass

HEIGHT, WIDTH = 6, 9
shares = st.floats(0.05, 1)


def picture(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slowly(picture, row, column):
    """One coefficient of the cosine transform, by its sum."""
    scale = math.sqrt((1 if row == 0 else 2) / HEIGHT) * math.sqrt((1 if column == 0 else 2) / WIDTH)
    return scale * sum(
        picture[y, x].item()
        * math.cos(math.pi * (y + 0.5) * row / HEIGHT)
        * math.cos(math.pi * (x + 0.5) * column / WIDTH)
        for y in range(HEIGHT)
        for x in range(WIDTH)
    )


def test_coefficients_are_those_of_the_cosine_transform_lowest_first():
    x = picture(0)
    found = low_frequency_dct(x, 0.5)
    assert found.shape == (2, 3, 3, 5)
    for row, column in ((0, 0), (0, 4), (2, 0), (2, 3)):
        assert found[1, 2, row, column].item() == pytest.approx(slowly(x[1, 2], row, column))


@given(share=shares, seed=st.integers(0, 50))
def test_a_picture_is_its_coarse_part_and_a_rest_that_has_none(share, seed):
    x = picture(seed)
    kept = low_pass(x, share)
    assert torch.allclose(low_frequency_dct(kept, share), low_frequency_dct(x, share), atol=1e-12)
    assert low_frequency_dct(x - kept, share).abs().max() < 1e-12
    assert kept.square().sum().item() == pytest.approx(low_frequency_dct(x, share).square().sum().item())


def test_all_frequencies_are_the_picture_itself_bit_by_bit():
    x = picture(3)
    assert low_frequency_dct(x, 1.0) is x and low_pass(x, 1.0) is x
