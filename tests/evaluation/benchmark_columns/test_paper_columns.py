"""The compositions reproduce the paper's tables, and say nothing where a dimension is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.benchmark_columns.benchmark_config import COLUMN_DIMENSIONS
from evaluation.benchmark_columns.benchmark_metrics import benchmark_metrics
from evaluation.benchmark_columns.paper_columns import PAPER_WEIGHTS, paper_columns

PAPER = {
    ("50 s", "CausVid"): (25.25, 89.34, 37.35, 61.56),
    ("50 s", "Self-Forcing"): (24.77, 88.17, 34.35, 61.06),
    ("50 s", "SkyReels-V2"): (23.73, 88.78, 39.15, 54.13),
    ("50 s", "Self-Forcing++"): (26.37, 91.03, 55.36, 60.82),
    ("100 s", "CausVid"): (24.41, 89.06, 34.60, 61.01),
    ("100 s", "Self-Forcing"): (22.00, 87.39, 26.41, 58.25),
    ("100 s", "SkyReels-V2"): (22.05, 88.80, 38.75, 50.48),
    ("100 s", "Self-Forcing++"): (26.04, 90.87, 54.12, 60.66),
    ("50 s", "10 s horizon"): (25.36, 88.78, 35.91, None),
    ("50 s", "Beta"): (26.65, 90.14, 45.66, None),
}
"""Text alignment, temporal quality, dynamic degree and framewise quality as printed (arXiv 2510.02283)."""
CONSISTENCIES = ("subject_consistency", "background_consistency", "motion_smoothness")
SCORES = st.floats(0, 100)


def implied_consistency(temporal: float, dynamic: float) -> float:
    """Mean of the three consistency dimensions that a printed row implies."""
    return (3.5 * temporal - dynamic / 2) / 3


@pytest.mark.parametrize("row", PAPER.values(), ids=[" ".join(name) for name in PAPER])
def test_every_row_of_the_paper_implies_consistencies_that_vbench_gives_and_comes_back_from_them(row):
    text, temporal, dynamic, framewise = row
    mean = implied_consistency(temporal, dynamic)
    assert 96 < mean < 99
    values = dict(zip(CONSISTENCIES, (mean - 1, mean, mean + 1), strict=True)) | {"dynamic_degree": dynamic}
    values |= {"overall_consistency": text - 3, "clip_score": text + 3}
    values |= {"aesthetic_quality": framewise, "imaging_quality": framewise} if framewise else {}
    columns = paper_columns(values)
    printed = {name: None if value is None else f"{value:.2f}" for name, value in columns.items()}
    assert printed == {
        "paper.text_alignment": f"{text:.2f}",
        "paper.temporal_quality": f"{temporal:.2f}",
        "paper.dynamic_degree": f"{dynamic:.2f}",
        "paper.framewise_quality": f"{framewise:.2f}" if framewise else None,
    }


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_no_other_weight_of_dynamic_degree_puts_all_rows_where_vbench_puts_consistencies(weight):
    implied = [((3 + weight) * temporal - weight * dynamic) / 3 for _, temporal, dynamic, _ in PAPER.values()]
    assert not all(96 < value < 99 for value in implied)


@given(st.fixed_dictionaries(dict.fromkeys((*COLUMN_DIMENSIONS, "clip_score"), SCORES)))
def test_columns_are_weighted_means(values):
    columns = paper_columns(values)
    temporal = sum(values[name] for name in CONSISTENCIES) + 0.5 * values["dynamic_degree"]
    assert columns["paper.temporal_quality"] == pytest.approx(temporal / 3.5)
    assert columns["paper.dynamic_degree"] == values["dynamic_degree"]
    for name, parts in PAPER_WEIGHTS.items():
        assert min(values[part] for part in parts) - 1e-9 <= columns[name] <= max(values[part] for part in parts) + 1e-9


@given(st.sampled_from((*COLUMN_DIMENSIONS, "clip_score")), st.booleans())
def test_a_missing_dimension_takes_its_columns_away_and_no_others(missing, absent):
    values = dict.fromkeys((*COLUMN_DIMENSIONS, "clip_score"), 50.0) | {missing: None}
    if absent:
        values.pop(missing)
    for name, value in paper_columns(values).items():
        assert value == (None if missing in PAPER_WEIGHTS[name] else 50.0)


def test_every_column_is_described():
    assert {*PAPER_WEIGHTS, *(f"vbench.{name}" for name in (*COLUMN_DIMENSIONS, "clip_score"))} <= set(
        benchmark_metrics()
    )
