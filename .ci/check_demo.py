"""Check the demo's summary: it is complete, and the uniform student outlives the prefix(1) student."""

import json
import math
import sys
from pathlib import Path

SEGMENTS = 16
VIDEOS_AT_LEAST = 32
GAP_AT_LEAST = 0.15  # the demo itself shows 0.25; one seed on a strange machine gets some room
CURVES = ("validity", "dynamic_degree", "exposure_drift")


def fail(reason: str) -> None:
    sys.exit(f"demo: {reason}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_method(name: str, method: dict) -> None:
    for curve in CURVES:
        values = method.get(curve)
        if not isinstance(values, list) or len(values) != SEGMENTS:
            fail(f"methods.{name}.{curve} must be a list of {SEGMENTS} numbers, got {values!r}")
        if not all(map(is_number, values)):
            fail(f"methods.{name}.{curve} holds something that is not a finite number: {values}")
    videos = method.get("videos")
    count = len(videos) if isinstance(videos, list) else videos
    if not is_number(count) or count < VIDEOS_AT_LEAST:
        fail(f"methods.{name}.videos must count at least {VIDEOS_AT_LEAST}, got {count!r}")


def main(path: Path) -> None:
    if not path.is_file():
        fail(f"{path} was not written")
    try:
        summary = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        fail(f"{path} is not JSON: {error}")
    if not isinstance(summary, dict):
        fail(f"{path} must hold one object")
    if not isinstance(summary.get("commit"), str) or not summary["commit"]:
        fail(f"commit must name the commit, got {summary.get('commit')!r}")
    seconds = summary.get("seconds")
    if not isinstance(seconds, dict) or not seconds or not all(map(is_number, seconds.values())):
        fail(f"seconds must map each stage to its seconds, got {seconds!r}")
    methods = summary.get("methods")
    for name in ("prefix_1", "uniform"):
        if not isinstance(methods, dict) or not isinstance(methods.get(name), dict):
            fail(f"methods.{name} is missing")
        check_method(name, methods[name])

    prefix, uniform = (methods[name]["validity"][-1] for name in ("prefix_1", "uniform"))
    numbers = (
        f"validity in segment {SEGMENTS}: uniform {uniform:.3f}, prefix_1 {prefix:.3f}, "
        f"gap {uniform - prefix:+.3f} (at least {GAP_AT_LEAST}); {sum(seconds.values()):.0f} s; "
        f"commit {summary['commit'][:12]}"
    )
    if uniform - prefix < GAP_AT_LEAST:
        fail(f"the gap is too small; {numbers}")
    print(f"demo: {numbers}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/summary.json"))
