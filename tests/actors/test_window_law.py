import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.window_law import Stratum, Uniform, laws_of_rollout, parse_law, window_starts
from models.errors import ConfigError

many = settings(max_examples=50, deadline=None)
laws = st.sampled_from(
    [
        "uniform", "stratified", "beta(1, 4)", "beta(4, 1)", "beta(0.5,0.5)", "prefix(1)", "prefix(2)", "prefix(2.5)",
        "weighted(1)", "weighted(1, 0, 2.5)", "priority(0.5)",
    ]
)  # fmt: skip


def p_value(counts: list[int], shares: list[float]) -> float:
    """Probability of a chi-square at least as large if `shares` were the law."""
    seen, law = torch.tensor(counts, dtype=torch.float64), torch.tensor(shares, dtype=torch.float64)
    expected = seen.sum() * law / law.sum()
    statistic = ((seen - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), statistic / 2).item()


def counts_of(text: str, starts: range, window: int, horizon: int, seed: int, draws: int = 6000) -> list[int]:
    """How often each of `starts` is drawn."""
    law, generator = parse_law(text), numpy.random.default_rng(seed)
    drawn = [law(starts, window, horizon, generator) for _ in range(draws)]
    assert set(drawn) <= set(starts)
    return [drawn.count(start) for start in starts]


def in_prefix(starts: range, window: int, end: float) -> list[int]:
    return [start for start in starts if start + window <= end]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_draws_every_position_of_the_rollout_equally_often(seed):
    counts = counts_of("uniform", window_starts(96, 12, 3), 12, 12, seed)
    assert len(counts) == 29 and p_value(counts, [1] * 29) > 1e-4


def test_the_test_of_uniformity_sees_a_law_that_forgets_the_last_position():
    counts = counts_of("uniform", window_starts(96, 12, 3)[:-1], 12, 12, seed=0)
    assert p_value([*counts, 0], [1] * 29) < 1e-4


@pytest.mark.parametrize(("a", "b"), [(1, 4), (4, 1), (1, 2), (2, 2)])
def test_beta_draws_each_position_as_often_as_its_slice_of_the_distribution(a, b):
    starts = window_starts(96, 12, 3)
    edges = torch.linspace(0, 1, 29_001, dtype=torch.float64)
    middles = (edges[:-1] + edges[1:]) / 2
    density = middles ** (a - 1) * (1 - middles) ** (b - 1)
    shares = density.view(29, 1000).sum(1).tolist()
    assert p_value(counts_of(f"beta({a}, {b})", starts, 12, 12, seed=0), shares) > 1e-4


def test_beta_1_4_has_its_mean_at_a_fifth_of_the_rollout():
    starts = window_starts(3000, 12, 3)
    counts = counts_of("beta(1, 4)", starts, 12, 12, seed=3)
    mean = sum(count * start for count, start in zip(counts, starts, strict=True)) / sum(counts)
    assert mean == pytest.approx(0.2 * starts[-1], rel=0.05)


@many
@given(rollout=st.integers(1, 10), seed=st.integers(0, 99))
def test_prefix_1_is_self_forcing_every_window_starts_at_0(rollout, seed):
    counts = counts_of("prefix(1)", window_starts(12 * rollout, 12, 3), 12, 12, seed, draws=20)
    assert counts[0] == 20


@pytest.mark.parametrize(("text", "horizons"), [("prefix(2)", 2), ("prefix(2.5)", 2.5)])
def test_prefix_is_uniform_over_the_windows_that_end_within_its_horizons(text, horizons):
    starts = window_starts(96, 12, 3)
    counts = counts_of(text, starts, 12, 12, seed=0)
    inside = in_prefix(starts, 12, 12 * horizons)
    assert sum(counts[len(inside) :]) == 0
    assert p_value(counts[: len(inside)], [1] * len(inside)) > 1e-4


@pytest.mark.parametrize("weights", [(1, 2, 4, 8), (0, 1, 0), (3,)])
def test_weighted_draws_each_position_as_often_as_the_parts_that_it_lies_in(weights):
    starts = window_starts(96, 12, 3)
    fine = 1000 * torch.arange(29_000, dtype=torch.float64) + 500
    part = (fine / 29e6 * len(weights)).long()
    shares = torch.tensor(weights, dtype=torch.float64)[part].view(29, 1000).sum(1)
    counts = counts_of(f"weighted({', '.join(map(str, weights))})", starts, 12, 12, seed=0)
    kept = shares > 0
    assert not torch.tensor(counts)[~kept].any()
    assert p_value(torch.tensor(counts)[kept].tolist(), shares[kept].tolist()) > 1e-4


@pytest.mark.parametrize("even", [0.25, 1.0])
def test_priority_draws_a_share_evenly_and_the_rest_where_videos_stray(even):
    starts, strayed = window_starts(96, 12, 3), numpy.arange(29.0) ** 2
    law, generator = parse_law(f"priority({even})").after(strayed), numpy.random.default_rng(0)
    drawn = [law(starts, 12, 12, generator) for _ in range(6000)]
    shares = even / 29 + (1 - even) * strayed / strayed.sum()
    assert p_value([drawn.count(start) for start in starts], shares.tolist()) > 1e-4


def test_priority_is_uniform_where_nothing_has_strayed():
    assert parse_law("priority(0.5)").after(numpy.zeros(29)) == Uniform()


@many
@given(windows=st.integers(1, 12), seed=st.integers(0, 99))
def test_stratified_windows_of_a_rollout_come_one_from_each_part(windows, seed):
    starts, generator = window_starts(3 * 1200, 3, 3), numpy.random.default_rng(seed)
    laws = laws_of_rollout(parse_law("stratified"), windows, generator)
    drawn = sorted(starts.index(law(starts, 3, 12, generator)) for law in laws)
    assert all(i * 1200 // windows <= place <= (i + 1) * 1200 // windows for i, place in enumerate(drawn))


def test_stratified_draws_every_position_equally_often_whichever_the_window():
    """The fourth window too: roles alternate by the window's number."""
    starts, generator, law = window_starts(96, 12, 3), numpy.random.default_rng(0), parse_law("stratified")
    drawn = [laws_of_rollout(law, 8, generator)[3](starts, 12, 12, generator) for _ in range(6000)]
    assert p_value([drawn.count(start) for start in starts], [1] * 29) > 1e-4


@pytest.mark.parametrize("text", ["uniform", "beta(1, 4)", "weighted(1, 2)"])
def test_other_laws_draw_each_window_alike_and_nothing_beforehand(text):
    law, generator, untouched = parse_law(text), numpy.random.default_rng(0), numpy.random.default_rng(0)
    assert laws_of_rollout(law, 3, generator) == [law] * 3
    assert generator.random() == untouched.random()


def test_the_parts_of_a_stratum_are_whole_starts_where_they_divide():
    starts = window_starts(3 * 12, 3, 3)
    drawn = {Stratum(2, 4)(starts, 3, 12, numpy.random.default_rng(seed)) for seed in range(200)}
    assert drawn == set(starts[6:9])


@many
@given(
    text=laws, block=st.integers(1, 4), window=st.integers(1, 4), more=st.integers(0, 30), seed=st.integers(0, 2**32)
)
def test_every_law_draws_a_block_aligned_window_inside_the_rollout(text, block, window, more, seed):
    frames, length = block * (window + more), block * window
    starts = window_starts(frames, length, block)
    start = parse_law(text)(starts, length, length, numpy.random.default_rng(seed))
    assert start % block == 0 and 0 <= start <= frames - length


@many
@given(block=st.integers(1, 4), window=st.integers(1, 4), more=st.integers(0, 30))
def test_the_starts_are_all_blocks_at_which_a_whole_window_fits(block, window, more):
    frames, length = block * (window + more), block * window
    assert list(window_starts(frames, length, block)) == [
        start for start in range(frames) if start % block == 0 and start + length <= frames
    ]


@pytest.mark.parametrize("text", ["uniform", " uniform ", "uniform()"])
def test_a_law_is_read_whatever_the_spaces(text):
    assert parse_law(text) == Uniform()
    assert parse_law(" beta( 1,4 ) ") == parse_law("beta(1.0, 4)")


def test_a_dotted_path_loads_a_callable_of_the_users_own():
    assert parse_law("numpy.random.default_rng") is numpy.random.default_rng


REFUSED = [
    "nonsense", "uniform(3)", "beta(1)", "beta(1, 2, 3)", "beta(1, 4", "beta 1 4", "", "prefix()",
    "no.such.module", "math.no_such_name", "stratified(4)", "priority", "weighted()", "weighted",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_law_that_cannot_be_read_is_refused_with_its_text_and_its_key(text):
    with pytest.raises(ConfigError) as caught:
        parse_law(text)
    assert (caught.value.key, caught.value.value) == ("window.law", text)


@pytest.mark.parametrize(
    "text",
    [
        "beta(0, 1)", "beta(1, -2)", "prefix(0)", "prefix(-1)", "weighted(0)", "weighted(1, -1)", "priority(0)",
        "priority(1.5)", "beta(a, b)", "prefix(one)", "beta(1, nan)", "prefix(nan)", "beta(inf, 1)", "weighted(1, inf)",
    ],
)  # fmt: skip
def test_numbers_that_make_no_distribution_are_refused_when_the_law_is_read(text):
    with pytest.raises(ConfigError) as caught:
        parse_law(text)
    assert caught.value.key == "window.law" and text.partition("(")[0] in str(caught.value)


@pytest.mark.parametrize("text", ["math.pi", "numpy.random.default_rng(3)"])
def test_a_dotted_path_to_no_callable_or_with_numbers_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_law(text)
    assert (caught.value.key, caught.value.value) == ("window.law", text)


def test_a_prefix_shorter_than_a_window_is_refused_by_name():
    with pytest.raises(ConfigError) as caught:
        parse_law("prefix(0.5)")(window_starts(96, 12, 3), 12, 12, numpy.random.default_rng(0))
    assert (caught.value.key, caught.value.value) == ("window.law", "prefix(0.5)")
