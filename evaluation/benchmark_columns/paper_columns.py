"""Compose the columns of the Self-Forcing++ tables from dimensions of VBench.

Text Alignment, Temporal Quality and Framewise Quality are the three groups of VBench's `competitions/` (dimensions
subject, background, smoothness weigh 1, dynamic degree 0.5); all rows of the paper's table of 16 columns (2510.02283)
follow from them. Values are raw scores times 100, without VBench's min-max normalisation.
"""

from collections.abc import Mapping

PAPER_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "paper.text_alignment": {"overall_consistency": 1.0, "clip_score": 1.0},
    "paper.temporal_quality": {
        "subject_consistency": 1.0,
        "background_consistency": 1.0,
        "motion_smoothness": 1.0,
        "dynamic_degree": 0.5,
    },
    "paper.dynamic_degree": {"dynamic_degree": 1.0},
    "paper.framewise_quality": {"aesthetic_quality": 1.0, "imaging_quality": 1.0},
}
"""Weights of the dimensions in each column; a column is their weighted mean."""


def paper_columns(dimensions: Mapping[str, float | None]) -> dict[str, float | None]:
    """Compute the paper's columns from dimensions times 100; None where a dimension is missing.

    Stillness raises temporal quality, as three of its four dimensions reward it: show dynamic degree with it.
    """
    columns: dict[str, float | None] = {}
    for column, weights in PAPER_WEIGHTS.items():
        values = [dimensions.get(dimension) for dimension in weights]
        if None in values:
            columns[column] = None
            continue
        weighted = sum(weight * value for weight, value in zip(weights.values(), values, strict=True))
        columns[column] = weighted / sum(weights.values())
    return columns
