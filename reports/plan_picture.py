"""The plan as a picture: who waits, and what the stage costs, against the size of the rollout pool."""

from collections.abc import Sequence
from pathlib import Path

from cluster.planning.pool_sizes import Size, cheapest
from models.atomic_files import write_whole

_LEARNER, _ACTORS, _COST, _BEST = "#0b62b8", "#c2410c", "#1f7a4d", "#5c636e"


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Write a PNG. Raises ValueError, with the key, where it cannot be written."""
    from io import BytesIO

    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    best, gpus = cheapest(sizes), [size.rollout_gpus for size in sizes]
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    waits, cost = figure.subplots(2, 1, sharex=True)
    waits.plot(gpus, [size.learner_idle_share for size in sizes], "-o", color=_LEARNER, label="learner waits")
    waits.plot(gpus, [size.rollout_idle_share for size in sizes], "--s", color=_ACTORS, label="actors wait")
    waits.set(ylabel="share of their time", ylim=(-0.02, 1))
    waits.yaxis.set_major_formatter(PercentFormatter(1.0))
    cost.plot(gpus, [size.gpu_days for size in sizes], "-o", color=_COST)
    cost.set(xlabel="rollout GPUs", ylabel=f"GPU-days of {best.steps} updates", ylim=(0, None))
    for axes in (waits, cost):
        axes.axvline(best.rollout_gpus, color=_BEST, linewidth=1, linestyle=":", zorder=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    waits.legend(frameon=False)
    cost.annotate(
        f"{best.rollout_gpus} rollout GPUs: {best.gpu_days:.2f} GPU-days",
        (best.rollout_gpus, best.gpu_days),
        xytext=(8, -16),
        textcoords="offset points",
        color=_BEST,
    )
    waits.set_title(f"Rollout GPUs beside {best.learner_gpus} learner GPUs")
    png = BytesIO()
    figure.savefig(png, format="png", dpi=150)
    try:
        write_whole(path, png.getvalue())
    except OSError as error:
        raise ValueError(f"plan.plot={path} cannot be written ({error.strerror}); give another file") from error
