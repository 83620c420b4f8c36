"""Run the benchmarks that fit a small machine, and write their lines into benchmarks/RESULTS.md.

python -m benchmarks.all_results     two CPU cores: 12 minutes at most, or `make bench`
More keys: only=[window_pass] (benchmarks by name), out=FILE.

The page starts with the machine and its ceilings, measured first. A benchmark that fails, or takes longer than its
limit, has its last line of errors on the page, and the command ends with status 1. Outside git there is no commit to
name, so nothing is run; a tree with changes is marked.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import settings
from benchmarks.command import run
from models.errors import ConfigError, StopsRun
from models.keys import KeyGroup, key
from models.provenance import commit
from models.user_paths import user_path


@dataclass(frozen=True)
class Measurement:
    """Describes one run of a benchmark."""

    module: str
    arguments: tuple[str, ...]
    limit_s: float


MEASUREMENTS = (
    Measurement("machine_ceilings", (), 20),
    Measurement("rollout_fps", ("model=mid", "blocks=1", "repeats=5"), 50),
    Measurement("rollout_fps", ("model=mid", "dtype=bfloat16", "blocks=1", "repeats=5"), 40),
    Measurement("rollout_fps", ("model=tiny",), 20),
    Measurement("full_recomputation", ("model=mid", "repeats=1"), 50),
    Measurement("window_pass", ("model=tiny", "repeats=7"), 20),
    Measurement("update_speed", ("stage=dmd", "model=mid", "warm_up=false"), 70),
    Measurement("update_speed", ("stage=ode", "model=tiny"), 20),
    Measurement("decoder_speed", ("height=4", "width=4"), 35),
    Measurement("weight_sync", (), 75),
    Measurement("checkpoint_speed", (), 25),
    Measurement("control_plane", ("repeats=2",), 100),
    Measurement("decoupling", (), 75),
    Measurement("evaluation_speed", ("minutes=[1]",), 30),
    Measurement("report_speed", (), 30),
    Measurement("startup", ("repeats=1",), 35),
)
"""Measurements in their order; together their limits are the 12 minutes."""


@dataclass(kw_only=True)
class BenchOptions(KeyGroup):
    """Describes a page of results."""

    only: list[str] = key([], "benchmarks to run, by name; []: all")
    out: str = key("benchmarks/RESULTS.md", "file of the page")


class BenchmarksFailed(StopsRun):
    """Ends the command where benchmarks failed: the page is written."""


def main(options: BenchOptions) -> None:
    """Run the chosen benchmarks and write the page. Raises ConfigError, and BenchmarksFailed at the end."""
    chosen, out = chosen_measurements(options.only), user_path(options.out, "out")
    named = commit()
    if named == "unknown":
        raise ConfigError("out", options.out, "results need the commit of a checkout", "run in a git checkout")
    began, lines, failures = time.monotonic(), [], []
    for number, measurement in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)} {measurement.module} {' '.join(measurement.arguments)}", flush=True)
        found, failure = lines_of(measurement)
        lines += found
        failures += [failure] if failure else []
    minutes = (time.monotonic() - began) / 60
    out.write_text(page(lines, failures, named, minutes), encoding="utf-8")
    print(f"wrote {out}: {len(lines)} results in {minutes:.1f} min")
    if failures:
        raise BenchmarksFailed(f"{len(failures)} benchmarks failed: {'; '.join(failures)}")


def chosen_measurements(only: Sequence[str]) -> list[Measurement]:
    """Return the measurements of these benchmarks, all for none. Raises ConfigError for an unknown name."""
    names = list(dict.fromkeys(one.module for one in MEASUREMENTS))
    for name in only:
        if name not in names:
            raise ConfigError("only", name, "no benchmark of this page", f"write some of {', '.join(names)}")
    return [one for one in MEASUREMENTS if not only or one.module in only]


def lines_of(measurement: Measurement) -> tuple[list[dict[str, Any]], str | None]:
    """Run a benchmark; return its lines, and in a few words how it failed."""
    command = [sys.executable, "-m", f"benchmarks.{measurement.module}", *measurement.arguments]
    name = f"{measurement.module} {' '.join(measurement.arguments)}".strip()
    try:
        done = subprocess.run(
            command, cwd=settings.ROOT, capture_output=True, text=True, timeout=measurement.limit_s,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [], f"{name}: stopped after {measurement.limit_s:g} s"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        return lines, f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:160]}"
    return lines, None


def page(lines: Iterable[dict[str, Any]], failures: Sequence[str], named: str, minutes: float) -> str:
    """Write the page of these lines of `benchmarks.line`."""
    commit_id, _, dirty = named.partition(" ")
    marked = f" **{dirty}: these numbers belong to no commit**" if dirty else ""
    head = [
        "# Results of `make bench`", "",
        f"Commit `{commit_id[:12]}`{marked}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, "
        f"{minutes:.1f} minutes. Value: the median; spread: least and most of the repeats; share: of the limit, which "
        "is measured or counted as the benchmark's own page says.", "",
        "| quantity | of | value | unit | spread | limit | share |",
        "| --- | --- | ---: | --- | --- | ---: | ---: |",
    ]  # fmt: skip
    failed = ["", "Failed:", "", *(f"- {failure}" for failure in failures)] if failures else []
    return "\n".join([*head, *map(_row, lines), *failed, ""])


def _row(line: dict[str, Any]) -> str:
    low, high = line["spread"]
    config = ", ".join(f"{name}={value}" for name, value in line["config"].items() if value not in (None, False))
    limit = "" if line["limit"] is None else f"{line['limit']:.4g}"
    share = "" if line["share"] is None else f"{line['share']:.0%}"
    cells = line["name"], f"{config} ({line['device']})", f"{line['value']:.4g}", line["unit"]
    return f"| {' | '.join(cells)} | {low:.4g} to {high:.4g} | {limit} | {share} |"


if __name__ == "__main__":
    run(main, __doc__, BenchOptions)
