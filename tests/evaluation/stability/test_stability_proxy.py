import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.second_curves import VideoCurves
from evaluation.stability.asked_changes import asked_changes
from evaluation.stability.degradations import KINDS
from evaluation.stability.stability_proxy import ALARM, COMPONENTS, CUT_POINTS, Stability, shots, stability_proxy
from tests.fakes.real_footage import FPS, film_clip
from tests.fakes.severity_ladder import agreement, degraded_stability, ladder
from tests.fakes.steady_rows import LEVELS, rows, video

RISING = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def of_rows(count: int, prompt: str = "", **changed) -> Stability:
    return stability_proxy(video(rows(count, **changed)), prompt)


def late(count: int, name: str, value: float) -> dict[str, list[float]]:
    """Change a curve in all but the first two seconds."""
    return {name: [LEVELS[name]] * 2 + [value] * (count - 2)}


def test_a_steady_video_loses_nothing():
    assert of_rows(10) == (100, 0, 0, 0, 0, 0, None)


@pytest.mark.parametrize(
    ("component", "changed"),
    [
        ("exposure", late(12, "luma", 0.9)),
        ("exposure", late(12, "contrast", 0.05) | late(12, "sharpness", 0.02)),
        ("exposure", late(12, "clipped", 0.8)),
        ("colour", late(12, "saturation", 0.8)),
        ("texture", late(12, "sharpness", 0.9)),
        ("texture", late(12, "validity", 0.0)),
        ("motion", late(12, "still", 1.0)),
        ("motion", late(12, "motion", 0.0001)),
    ],
)
def test_each_component_sees_its_own_change_and_the_others_do_not(component, changed):
    stability = of_rows(12, **changed)
    assert stability.vs_proxy < ALARM
    assert {name for name in COMPONENTS if (getattr(stability, name) or 0) > 0.5} == {component}


def test_a_video_unlike_real_ones_loses_points_by_how_long_it_is_and_one_without_a_band_none():
    values = [of_rows(12, unlike=[0.0] * (12 - seconds) + [1.0] * seconds) for seconds in (0, 3, 6, 12)]
    assert [each.reality for each in values] == pytest.approx([0, 1.25, 2.5, 5])
    assert [round(each.vs_proxy) for each in values] == [100, 75, 50, 0]
    assert of_rows(12).reality is None and of_rows(12).vs_proxy == 100


def test_a_video_that_repeats_itself_loses_points_by_how_much_of_it_does():
    values = [stability_proxy(video(rows(12), repeated=share)).vs_proxy for share in (0, 0.1, 0.3, 0.6, 0.75)]
    assert values == sorted(values, reverse=True) and values[0] == 100 and values[-1] < 1e-6


@given(
    name=st.sampled_from(["luma", "contrast", "clipped", "saturation", "still"]),
    one=st.floats(0, 0.5),
    other=st.floats(0, 0.5),
)
def test_a_larger_deviation_never_gains(name, one, other):
    small, large = sorted([one, other])
    better, worse = (of_rows(8, **late(8, name, LEVELS[name] + by)) for by in (small, large))
    assert 0 <= worse.vs_proxy <= better.vs_proxy <= 100


@given(seconds=st.integers(3, 20))
def test_the_longer_a_collapse_lasts_the_more_it_costs(seconds):
    def of_length(length: int) -> float:
        return of_rows(24, luma=[LEVELS["luma"]] * (24 - length) + [0.6] * length).vs_proxy

    assert of_length(seconds + 1) < of_length(seconds)


def test_nothing_is_lost_up_to_the_first_cut_point_one_at_the_second_and_all_at_the_last():
    luma = CUT_POINTS["luma"]
    assert of_rows(400, motion=[0.0] * 400, **late(400, "luma", LEVELS["luma"] + luma[0])).vs_proxy == 100
    assert of_rows(400, motion=[0.0] * 400, **late(400, "luma", LEVELS["luma"] + luma[1])).vs_proxy == pytest.approx(
        ALARM, abs=0.1
    )
    assert of_rows(400, motion=[0.0] * 400, **late(400, "luma", LEVELS["luma"] + luma[-1])).vs_proxy < 1


@pytest.mark.parametrize("prompt", ["a hill, the sun sets", "a hill at dusk", "the lights go out"])
def test_a_darkening_that_was_asked_for_is_no_alarm_and_a_brightening_then_is(prompt):
    darker, brighter = ([LEVELS["luma"] + sign * 0.025 * i for i in range(12)] for sign in (-1, 1))
    assert of_rows(12, luma=darker).vs_proxy < ALARM < of_rows(12, prompt, luma=darker).vs_proxy
    assert of_rows(12, prompt, luma=brighter).vs_proxy < ALARM


def test_a_picture_that_has_moved_on_may_look_different_unless_the_things_in_it_have_changed():
    shown = late(12, "luma", 0.55) | {"luma_change": [0.0] * 12}
    assert of_rows(12, motion=[0.0] * 12, **shown).vs_proxy < ALARM < of_rows(12, motion=[0.2] * 12, **shown).vs_proxy
    assert of_rows(12, motion=[0.2] * 12, **late(12, "luma", 0.6)).vs_proxy < ALARM
    far = late(12, "luma", 0.75) | {"luma_change": [0.0] * 12}
    assert of_rows(12, motion=[0.2] * 12, **far).vs_proxy < ALARM


@given(change=st.lists(st.floats(-0.2, 0.2), min_size=12, max_size=12), level=st.floats(0.3, 0.6))
def test_what_the_things_in_view_have_done_never_costs_more_than_what_the_level_has(change, level):
    moving = {"motion": [0.2] * 12}
    alone = of_rows(12, **late(12, "luma", level) | {"motion": [0.0] * 12}).vs_proxy
    assert of_rows(12, **late(12, "luma", level) | {"luma_change": change} | moving).vs_proxy >= alone - 1e-9


def cut_video() -> VideoCurves:
    luma, cut = [0.4] * 6 + [0.5] + [0.9] * 6, [0.0] * 6 + [0.99] + [0.0] * 6
    return video(rows(13, luma=luma, cut=cut))


def test_behind_a_cut_that_was_asked_for_the_comparison_begins_anew():
    assert stability_proxy(cut_video()).vs_proxy < ALARM
    assert stability_proxy(cut_video(), "it cuts to a lake").vs_proxy == 100
    assert stability_proxy(cut_video(), scene_starts_s=[0, 6.4]).vs_proxy == 100
    assert stability_proxy(cut_video(), scene_starts_s=[0, 2.0, 90.0]).vs_proxy < ALARM


def test_a_prompt_excuses_as_many_cuts_as_it_asks_for():
    cut = [0.0, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0]
    lengths = {
        prompt: [len(shot) for shot in shots(rows(8, cut=cut), asked_changes(prompt), [])]
        for prompt in ("", "cuts to a lake", "cuts to a lake, cuts to a hill", "a montage")
    }
    assert list(lengths.values()) == [[8], [2, 5], [2, 2, 2], [2, 2, 2]]


def test_a_video_without_seconds_is_an_error_and_one_of_a_single_frame_is_not():
    with pytest.raises(ValueError, match="seconds"):
        stability_proxy(VideoCurves([], 0, 0.0, 0, 0))
    assert of_rows(1, motion=[None], validity=[None], still=[None], cut=[None]).vs_proxy is None


@pytest.fixture(scope="module")
def clip():
    return film_clip("driver", 96, seed=0)[:, ::2, ::2].copy()


@pytest.mark.parametrize("name", ["luma_down", "repeat"])
def test_the_proxy_falls_as_the_severity_rises_on_a_film(name, clip):
    values = ladder(clip, FPS, KINDS[name], RISING, seed=0)
    assert agreement(RISING, values) >= 0.95
    assert values[0] >= ALARM > values[-1]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_benign])
def test_a_change_that_was_asked_for_is_no_alarm_on_a_film(name, clip):
    assert degraded_stability(clip, FPS, KINDS[name], 1.0, seed=0).vs_proxy >= ALARM
