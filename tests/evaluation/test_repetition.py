import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.repetition import RATE, repeated_share


def wandering(count: int, seed: int, pace: float = 0.05) -> numpy.ndarray:
    """Make pictures [N 192] that never come back: a random walk with a drift."""
    rng = numpy.random.default_rng(seed)
    steps = pace * (rng.normal(size=(count, 192)) + rng.normal(size=192))
    return (0.5 + steps.cumsum(0) / 10).astype(numpy.float32)


@settings(max_examples=12)
@given(seed=st.integers(0, 50), length_s=st.integers(4, 8), gap_s=st.integers(0, 5))
def test_a_replayed_stretch_counts_by_its_length(seed, length_s, gap_s):
    pictures, length, gap = wandering(120, seed), round(length_s * RATE), round(gap_s * RATE)
    video = numpy.concatenate([pictures[: 80 + gap], pictures[8 : 8 + length]])
    assert repeated_share(video, RATE) == pytest.approx(length / len(video), abs=2 / len(video))


@settings(max_examples=12)
@given(seed=st.integers(0, 200))
def test_what_never_comes_back_does_not_repeat(seed):
    assert repeated_share(wandering(160, seed), RATE) == 0


@settings(max_examples=12)
@given(seed=st.integers(0, 50), noise=st.floats(0, 0.002))
def test_a_slow_drift_forth_and_back_is_no_replay(seed, noise):
    rng = numpy.random.default_rng(seed)
    there = numpy.linspace(0, 1, 60)
    away = numpy.concatenate([there, there[::-1]])
    pictures = 0.4 + 0.2 * away[:, None] * rng.normal(size=192) + noise * rng.normal(size=(120, 192))
    assert repeated_share(pictures.astype(numpy.float32), RATE) == 0


def test_a_loop_repeats_all_but_its_first_turn():
    turn = wandering(40, 3)
    assert repeated_share(numpy.tile(turn, (4, 1)), RATE) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 100])
def test_a_still_picture_does_not_repeat_itself(count):
    assert repeated_share(numpy.full((count, 192), 0.5, dtype=numpy.float32), RATE) == 0


def test_a_stretch_of_less_than_three_seconds_does_not_count():
    pictures = wandering(80, 5)
    assert repeated_share(numpy.concatenate([pictures, pictures[8:29]]), RATE) == 0
    assert repeated_share(numpy.concatenate([pictures, pictures[8:34]]), RATE) > 0
