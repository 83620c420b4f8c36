"""Print one line of JSON per measured quantity, for all benchmarks."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from models.provenance import commit


def print_line(
    name: str,
    values: Sequence[float],
    unit: str,
    device: str,
    config: dict[str, Any],
    limit: float | None = None,
    value: float | None = None,
    **more: Any,
) -> None:
    """Print `value` (the median of the repeats where it is not given) of `values`, with its unit and configuration.

    `limit` is the physical or measured ceiling, in the same unit; `more` stands at the end of the line.
    """
    value = statistics.median(values) if value is None else value
    commit_id, _, dirty = commit().partition(" ")
    line = {
        "name": name,
        "value": _rounded(value),
        "unit": unit,
        "limit": None if limit is None else _rounded(limit),
        "share": None if limit is None else _rounded(value / limit),
        "spread": [_rounded(min(values)), _rounded(max(values))],
        "repeats": len(values),
        "commit": commit_id,
        "dirty": bool(dirty),
        "device": device,
        "config": config,
    }
    print(json.dumps(line | more), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
