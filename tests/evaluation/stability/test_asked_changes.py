import pytest

from evaluation.stability.asked_changes import MONTAGE, asked_changes
from evaluation.stability.degradations import KINDS
from models.worlds.tiny_prompts import PROMPTS


@pytest.mark.parametrize(
    ("prompt", "darker", "brighter"),
    [
        ("A beach. The sun sets behind the sea", True, False),
        ("SUNSET over the city", True, False),
        ("the picture fades to black", True, False),
        ("the lights go out in the hall", True, False),
        ("a valley at dawn", False, True),
        ("the sun is rising", False, True),
        ("fade to white", False, True),
        ("a time-lapse of a square", True, True),
        ("lamps flicker", True, True),
        ("a set of sunglasses on a dusky pink sofa", False, False),
        ("a light truck goes outside", False, False),
        ("", False, False),
    ],
)
def test_a_prompt_asks_for_a_change_of_light_by_whole_phrases(prompt, darker, brighter):
    asked = asked_changes(prompt)
    assert (asked.darker, asked.brighter) == (darker, brighter)


@pytest.mark.parametrize(
    ("prompt", "cuts"),
    [
        ("a man walks, then the film cuts to a dog", 1),
        ("it cuts to a dog, then switches to a cat", 2),
        ("a montage of streets", MONTAGE),
        ("she cuts the bread; a shortcut home", 0),
    ],
)
def test_a_prompt_asks_for_as_many_cuts_as_it_names(prompt, cuts):
    assert asked_changes(prompt).cuts == cuts


@pytest.mark.parametrize(
    ("prompt", "camera"),
    [("the camera slowly pans over a lake", True), ("a tracking shot of a dog", True), ("zooming in on a leaf", True),
     ("a pan on a stove", False), ("a camera on a table", False)],
)  # fmt: skip
def test_a_prompt_moves_the_camera(prompt, camera):
    assert asked_changes(prompt).camera == camera


def test_benign_kinds_ask_for_what_they_do_and_prompts_of_the_tiny_world_for_nothing():
    assert asked_changes(KINDS["sunset"].prompt) == (True, False, False, 0)
    assert asked_changes(KINDS["cut"].prompt) == (False, False, False, 1)
    assert asked_changes(KINDS["pan"].prompt) == (False, False, True, 0)
    assert {asked_changes(prompt) for prompt in PROMPTS} == {(False, False, False, 0)}
