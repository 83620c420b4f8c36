"""Describe the columns of this package, for tables and reports."""

from evaluation.benchmark_columns.benchmark_config import COLUMN_DIMENSIONS, OTHER_DIMENSIONS
from evaluation.metrics import Metric
from evaluation.second_curves import SecondCurve

EMBEDDING_CURVES = {
    "text_alignment": SecondCurve("text alignment (CLIP)", "cosine of frames and prompt, times 100", False),
    "identity": SecondCurve("identity", "cosine to the mean of the first 2 s", False),
}
"""Curves of the image encoders: further columns of the rows per second."""
EMBEDDING_BANDS = {"text_alignment": 3.0, "identity": 0.2}
"""Largest deviation from the first two seconds that counts as stable, in the unit of the curve."""
_PAPER_LABELS = {
    "paper.text_alignment": "text alignment (VBench)",
    "paper.temporal_quality": "temporal quality (VBench)",
    "paper.dynamic_degree": "dynamic degree (VBench)",
    "paper.framewise_quality": "framewise quality (VBench)",
}


def benchmark_metrics() -> dict[str, Metric]:
    """Describe every metric of `vbench_columns` and `embedding_columns`, by name."""
    described = {name: Metric(label, "score times 100", "high") for name, label in _PAPER_LABELS.items()}
    for dimension in (*COLUMN_DIMENSIONS, *OTHER_DIMENSIONS):
        described[f"vbench.{dimension}"] = Metric(f"VBench: {dimension.replace('_', ' ')}", "score times 100", "high")
    described["vbench.clip_score"] = Metric("CLIP score", "mean cosine times 100", "high")
    for name, curve in EMBEDDING_CURVES.items():
        described |= {
            f"{name}.mean": Metric(curve.label, curve.unit, "high"),
            f"{name}.slope": Metric(f"{curve.label}: trend", f"{curve.unit}, per minute", ""),
            f"{name}.worst": Metric(f"{curve.label}: worst 2 s", f"deviation from the start, {curve.unit}", "low"),
            f"{name}.outside": Metric(f"{curve.label}: time outside the band", "share of seconds", "low"),
            f"{name}.ends": Metric(f"{curve.label}: last 15 % against first", f"difference, {curve.unit}", "low"),
        }
    return described
