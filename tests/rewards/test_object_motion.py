import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.object_motion import displacement, frozen, moves

speeds = st.floats(0.1, 3)
coordinates = st.floats(-20, 20, width=32)


def test_displacement_is_the_straight_distance():
    path = torch.tensor([[[1.0, 1.0], [4.0, 5.0], [4.0, 5.0], [4.0, 3.0]]])
    assert displacement(path).tolist() == [[5.0, 0.0, 2.0]]


@given(path=st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=6), shift=coordinates)
def test_displacement_does_not_depend_on_place_or_on_the_direction_of_time(path, shift):
    path = torch.tensor(path, dtype=torch.float64)[None]
    torch.testing.assert_close(displacement(path + shift), displacement(path))
    torch.testing.assert_close(displacement(path.flip(1)), displacement(path).flip(1))


@given(speed=speeds, distance=st.floats(0, 10))
def test_nothing_both_moves_and_is_frozen(speed, distance):
    distance, speed = torch.tensor([[distance]]), torch.tensor([speed])
    assert not (moves(distance, speed) & frozen(distance, speed)).any()


@given(speed=speeds)
def test_moving_at_the_prompted_speed_moves_and_standing_still_is_frozen(speed):
    asked = torch.tensor([speed])
    assert moves(asked[None], asked).all() and not frozen(asked[None], asked).any()
    assert frozen(torch.zeros(1, 1), asked).all() and not moves(torch.zeros(1, 1), asked).any()


@given(speed=speeds, excess=st.floats(1.25, 10))
def test_a_jump_is_neither_motion_nor_a_freeze(speed, excess):
    jump, asked = torch.tensor([[speed + excess]]), torch.tensor([speed])
    assert not moves(jump, asked).any() and not frozen(jump, asked).any()


def test_the_band_of_motion_has_its_ends_at_two_fifths_and_at_1_2_pixels_more():
    distance = torch.tensor([[0.49, 0.51, 0.79, 0.81, 3.19, 3.21]])
    speed = torch.tensor([2.0])
    assert moves(distance, speed).tolist() == [[False, False, False, True, True, False]]
    assert frozen(distance, speed).tolist() == [[True, False, False, False, False, False]]


def test_every_video_is_measured_against_its_own_speed():
    distance = torch.full((2, 3), 0.5)
    assert moves(distance, torch.tensor([0.5, 2.0])).tolist() == [[True] * 3, [False] * 3]
