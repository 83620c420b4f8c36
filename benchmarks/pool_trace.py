"""Draw the size of an autoscaled rollout pool over time, with the measurements that decided it.

python -m benchmarks.pool_trace <run folder> [out=<picture.png>]
Reads the run's autoscale.jsonl and writes pool_trace.png into its folder: actors requested, running and needed; windows
waiting in the buffer; the learner's share of waiting. Every change of size carries its kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.command import run
from cluster.autoscale.loop import FILE, read_looks
from models.errors import ConfigError
from models.keys import key

matplotlib.use("Agg")

_COLOURS = {"grow": "#1b7837", "shrink": "#b2182b", "budget": "#b2182b", "gain": "#b2182b", "bounds": "#666666"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw `rows`, the lines of autoscale.jsonl, at least one."""
    from matplotlib import pyplot

    seconds = [look["time"] - rows[0]["time"] for look in rows]
    figure, (size, buffer, waiting) = pyplot.subplots(3, 1, figsize=(11, 7), sharex=True, height_ratios=(2, 1, 1))
    size.step(seconds, [look["decision"]["size"] for look in rows], where="post", label="wanted", color="black")
    size.fill_between(
        seconds, [look["now_running"] for look in rows], step="post", alpha=0.35, label="there", color="#2166ac"
    )
    needed = [look["decision"]["needed"] or float("nan") for look in rows]
    size.step(seconds, needed, where="post", label="needed, by measured costs", color="#e08214", linestyle=":")
    highest = max(max(look["decision"]["size"], look["now_running"]) for look in rows)
    size.set_ylim(0, 1.5 * highest + 1)
    for at, look in zip(seconds, rows, strict=True):
        decision = look["decision"]
        if decision["size"] != look["size"]:
            label = f"{decision['kind']}\n{look['size']} to {decision['size']}"
            size.annotate(label, (at, decision["size"]), (at, 1.2 * highest + 0.5), color=_COLOURS[decision["kind"]],
                          arrowprops={"arrowstyle": "->", "alpha": 0.5}, ha="center", fontsize=8)  # fmt: skip
    size.set_ylabel("rollout actors")
    size.legend(loc="upper right", fontsize=8, ncols=3)
    depth = [look["depth"] for look in rows]
    held = [look["depth"] + look["pending"] for look in rows]
    buffer.fill_between(seconds, held, step="post", alpha=0.25, label="and being made", color="#4d9221")
    buffer.fill_between(seconds, depth, step="post", alpha=0.6, label="wait to be taken", color="#4d9221")
    buffer.plot(seconds, [look["capacity"] for look in rows], color="grey", linewidth=0.8, label="the buffer holds")
    buffer.set_ylim(0, 1.45 * max(look["capacity"] for look in rows))
    buffer.set_ylabel("windows")
    buffer.legend(loc="upper right", fontsize=8, ncols=3)
    shares = [look["waiting_share"] for look in rows]
    waiting.step(seconds, shares, where="post", color="#762a83", label="learner waits")
    idle = [look["idle"] / max(look["running"], 1e-9) for look in rows]
    waiting.step(seconds, idle, where="post", color="#2166ac", alpha=0.6, label="actors wait for room")
    waiting.set_ylim(0, 1.45)
    waiting.set_yticks([0, 0.5, 1])
    waiting.set_ylabel("share of time")
    waiting.set_xlabel("seconds since the first look")
    waiting.legend(loc="upper right", fontsize=8, ncols=2)
    for axes in (size, buffer, waiting):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


@dataclass(kw_only=True)
class Options:
    """Names the run and the picture."""

    run_dir: str = key("", "folder of the run")
    out: str | None = key(None, "picture (png); without, pool_trace.png in the folder of the run")

    def __post_init__(self):
        if not self.run_dir:
            raise ConfigError("run_dir", None, "no run is given", "write run_dir=FOLDER")


def main(options: Options) -> None:
    file = Path(options.run_dir, FILE)
    rows = read_looks(file)
    if not rows:
        raise ConfigError(
            "run_dir",
            options.run_dir,
            f"no {FILE} with a look at a pool",
            "write the folder of a run with autoscale.enabled=true",
        )
    out = Path(options.out) if options.out else Path(options.run_dir, "pool_trace.png")
    draw(rows, out)
    print(out)


if __name__ == "__main__":
    run(main, __doc__, Options, "run_dir")
