"""Check the login at Weights & Biases, and write the log there."""

import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy

from cluster.config.cluster_config import WandbConfig
from models.errors import ConfigError

_SERVER = "https://api.wandb.ai"
_BARS = 64


def check_login(wandb: WandbConfig) -> None:
    """Reject wandb.mode=online without a key in the environment or in the netrc file for wandb's server.

    Asks no network. Raises ConfigError.
    """
    if wandb.mode != "online" or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    given = os.environ.get("NETRC")
    files = [Path(os.path.expanduser(name)) for name in ([given] if given else ["~/.netrc", "~/_netrc"])]
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or _SERVER).netloc
    try:
        if any(netrc.netrc(str(file)).authenticators(server) is not None for file in files if file.is_file()):
            return
    except netrc.NetrcParseError as error:
        raise ConfigError(
            "wandb.mode",
            "online",
            f"{error.filename} cannot be read at line {error.lineno}",
            "repair that file, set WANDB_API_KEY, or write wandb.mode=offline",
        ) from None  # its message would quote the file
    raise ConfigError(
        "wandb.mode", "online", "this machine has no login",
        "run `wandb login`, set WANDB_API_KEY, or write wandb.mode=offline",
    )  # fmt: skip


class WandbLog:
    """Logs to Weights & Biases, one wandb run per command."""

    def __init__(self, config: WandbConfig, run_dir: Path):
        import wandb  # half a second to import: only where it is used

        self.histogram, self.video = wandb.Histogram, wandb.Video
        self.run = wandb.init(
            project=config.project, mode=config.mode, dir=str(run_dir), name=run_dir.name,
            settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def __call__(self, stage: str, step: int, metrics: dict[str, Any], videos: Sequence[Path] = ()) -> None:
        """Log numbers as they are, numbers by start as histograms, and the videos of an evaluation."""
        logged = {f"{stage}/{name}": self.histogram(np_histogram=bars(v)) for name, v in by_start(metrics).items()}
        logged |= {f"{stage}/{name}": value for name, value in metrics.items() if not isinstance(value, dict)}
        logged |= {f"{stage}/evaluation/video_{file.stem}": self.video(file, format="mp4") for file in videos}
        self.run.log(logged | {f"{stage}/step": step})


def by_start(metrics: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Select the metrics that are numbers by start; those by role and start become one per role."""
    grouped = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            continue
        nested = {f"{name}/{role}": numbers for role, numbers in value.items() if isinstance(numbers, dict)}
        grouped |= nested or ({name: value} if value else {})
    return grouped


def bars(numbers: dict[int, float]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Compute heights and edges of at most 64 bars, each the mean over its starts (0 without any)."""
    starts = sorted(numbers)
    edges = numpy.linspace(starts[0], starts[-1] + 1, min(_BARS, len(starts)) + 1)
    sums, _ = numpy.histogram(starts, edges, weights=[numbers[start] for start in starts])
    counts, _ = numpy.histogram(starts, edges)
    return sums / numpy.maximum(counts, 1), edges
