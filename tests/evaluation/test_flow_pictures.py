import math
from colorsys import hsv_to_rgb

import pytest
import torch

from evaluation.flow_pictures import colour_wheel, flow_colours


def test_hue_is_direction_and_colour_is_speed_pixel_by_pixel():
    flow = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    colours = flow_colours(flow, 1.5)
    for pair in range(2):
        for y in range(4):
            for x in range(5):
                right, down = flow[pair, :, y, x].tolist()
                hue, speed = math.atan2(down, right) / math.tau % 1, math.hypot(right, down)
                expected = hsv_to_rgb(hue, min(speed / 1.5, 1), 1)
                assert colours[pair, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_rest_is_white_even_where_nothing_moves():
    assert flow_colours(torch.zeros(1, 2, 3, 3), 0.0).eq(1).all()


def test_the_wheel_shows_each_direction_where_it_points():
    legend, size = colour_wheel(65), 65
    right = flow_colours(torch.tensor([1.0, 0.0])[None, :, None, None], 1.0)[0, 0, 0]
    assert legend[size // 2, -1, :3].tolist() == pytest.approx(right.tolist(), abs=1e-5)
    assert legend[0, 0, 3] == 0 and legend[size // 2, size // 2].tolist() == [1, 1, 1, 1]
