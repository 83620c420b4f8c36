"""Agreement statistics against slow formulas and known values; the same numbers every time."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from evaluation.judging.agreement import (
    human_agreement,
    quadratic_kappa,
    read_ratings,
    self_agreement,
    spearman,
    swap_consistency,
)
from evaluation.judging.pairwise import PairVerdict
from evaluation.judging.video_judge import VideoVerdict, visual_stability
from models.errors import ConfigError

RATINGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30)


def slow_kappa(one, other) -> float | None:
    """Kappa by its table: 1 - sum w O / sum w E, with w = (i - j)^2."""
    table, weights = numpy.zeros((6, 6)), numpy.subtract.outer(numpy.arange(6), numpy.arange(6)) ** 2
    for a, b in zip(one, other, strict=True):
        table[a, b] += 1
    expected = numpy.outer(table.sum(1), table.sum(0)) / table.sum()
    return None if not (weights * expected).sum() else 1 - (weights * table).sum() / (weights * expected).sum()


def verdicts_of(repeats) -> dict[str, VideoVerdict]:
    return {f"video_{i}": VideoVerdict(visual_stability(own), tuple(own), ()) for i, own in enumerate(repeats)}


@settings(max_examples=40)
@given(RATINGS)
def test_kappa_is_that_of_the_table(pairs):
    one, other = zip(*pairs, strict=True)
    slow, fast = slow_kappa(one, other), quadratic_kappa(one, other)
    assert fast.count == len(pairs) and (fast.value is None) == (slow is None)
    assert slow is None or fast.value == pytest.approx(slow, abs=1e-9)


def test_kappa_has_its_known_values():
    assert quadratic_kappa([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]).value == pytest.approx(1)
    assert quadratic_kappa([0, 5], [5, 0]).value == pytest.approx(-1)
    assert quadratic_kappa([0, 0, 5, 5], [0, 5, 0, 5]).value == pytest.approx(0)
    assert quadratic_kappa([3, 3, 3], [3, 3, 3]).value is None
    # (a - b)^2 = 0 0 1 1; variances 1.25 and 1.25, means 2.5 and 2.5: 1 - 0.5 / 2.5
    assert quadratic_kappa([1, 2, 3, 4], [1, 2, 4, 3]).value == pytest.approx(0.8)


@settings(max_examples=40)
@given(RATINGS)
def test_spearman_is_that_of_scipy(pairs):
    one, other = (numpy.array(side) for side in zip(*pairs, strict=True))
    fast = spearman(one, other).value
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert fast is None
    else:
        assert fast == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)


def test_intervals_hold_the_value_repeat_and_do_not_depend_on_the_order():
    draw = numpy.random.default_rng(1)
    one = draw.integers(0, 6, 60)
    other = numpy.clip(one + draw.integers(-1, 2, 60), 0, 5)
    order = draw.permutation(60)
    for statistic in (quadratic_kappa, spearman):
        first = statistic(one, other)
        assert first == statistic(one, other) == pytest.approx(statistic(one[order], other[order]))
        assert first.low < first.value < first.high <= 1 and first.high - first.low < 0.25
        wide = statistic(one[:12], other[:12])
        assert wide.high - wide.low > first.high - first.low


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos_have_no_agreement(count):
    for statistic in (quadratic_kappa, spearman):
        assert statistic([3] * count, [4] * count) == (None, None, None, count)


def test_repeats_that_agree_agree_and_repeats_by_chance_do_not():
    steady = self_agreement(verdicts_of([(i % 6,) * 3 for i in range(30)]))
    assert (steady.value, steady.count) == (pytest.approx(1), 30)
    draw = numpy.random.default_rng(2)
    chance = self_agreement(verdicts_of(draw.integers(0, 6, (200, 2)).tolist()))
    assert chance.low < 0 < chance.high or abs(chance.value) < 0.1


def test_missing_repeats_are_left_out_and_single_scores_say_nothing():
    full = self_agreement(verdicts_of([(1, 2), (4, 4), (0, 1)]))
    assert full == self_agreement(verdicts_of([(1, None, 2), (4, 4, None), (0, 1), (3,), (None, 5), (None, None)]))
    assert full.count == 3
    assert self_agreement(verdicts_of([(3,), (4,)])) == (None, None, None, 0)


def test_people_are_compared_over_the_videos_that_both_judged():
    verdicts = verdicts_of([(0,), (1,), (2,), (5,), (None,)])
    people = {"video_0": 0.0, "video_1": 1.5, "video_2": 2.0, "video_3": 4.5, "video_4": 3.0, "other": 1.0}
    agreement = human_agreement(verdicts, people)
    assert agreement["spearman"].value == pytest.approx(1) and agreement["kappa"].count == 4
    assert agreement["kappa"].value == quadratic_kappa([0, 1, 2, 5], [0, 1.5, 2, 4.5]).value < 1


def test_consistency_is_the_share_of_pairs_with_one_verdict():
    orders = [("first", "first"), ("first", "second"), ("tie", "tie"), ("second", "second"), (None, "first")]
    consistency = swap_consistency({str(i): PairVerdict(None, both, ()) for i, both in enumerate(orders)})
    assert (consistency.mean, consistency.count, consistency.missing) == (0.75, 4, 1)


def test_a_file_of_ratings_is_read_and_a_name_given_twice_has_the_mean(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text('\ufeffname,score,by\n"a, b",3,x\nc,0,x\nc,5,y\n', encoding="utf-8")
    assert read_ratings(str(path)) == {"a, b": 3.0, "c": 2.5}


@pytest.mark.parametrize(
    "content",
    ["", "name,score\n", "a,3\n", "name,score\na\n", "name,score\na,high\n", "name,score\na,6\n", "name,score\na,-1\n",
     "name,score\na,nan\n", "name,score\n,3\n", None],
)  # fmt: skip
def test_a_file_that_holds_no_ratings_is_named(tmp_path, content):
    path = tmp_path / "ratings.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_ratings(str(path))
    assert caught.value.key == "judge.ratings"
