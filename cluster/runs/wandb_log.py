"""Weights & Biases: whether one may log there, and what is logged."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy

from cluster.config.run_config import Config

_SERVER = "https://api.wandb.ai"
_BARS = 64


def check_login(config: Config) -> None:
    """Refuse wandb.mode=online where nobody is logged in, without a word to the network. Raises ValueError."""
    if config.wandb.mode != "online" or logged_in():
        return
    raise ValueError(
        "wandb.mode=online, but nobody is logged in here: run `wandb login`, set WANDB_API_KEY, or set "
        "wandb.mode=offline"
    )


def logged_in() -> bool:
    """Whether wandb will find a key: in the environment, or in the netrc file for its server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or _SERVER).netloc
    return any(file.is_file() and _names(file, server) for file in files)


def _names(file: Path, server: str) -> bool:
    try:
        return netrc.netrc(str(file)).authenticators(server) is not None
    except netrc.NetrcParseError as error:
        raise ValueError(
            f"{file} cannot be read at line {error.lineno}; mend it, set WANDB_API_KEY, or set wandb.mode=offline"
        ) from None  # its message would quote the file


class WandbLog:
    """One wandb run per command."""

    def __init__(self, config: Config):
        import wandb  # half a second to import: only where it is used

        self.histogram = wandb.Histogram
        self.run = wandb.init(
            project=config.wandb.project, mode=config.wandb.mode, dir=config.run_dir, name=Path(config.run_dir).name,
            settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def __call__(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Numbers as they are; numbers by start as histograms."""
        logged = {f"{stage}/{name}": self.histogram(np_histogram=bars(v)) for name, v in by_start(metrics).items()}
        logged |= {f"{stage}/{name}": value for name, value in metrics.items() if not isinstance(value, dict)}
        self.run.log(logged | {f"{stage}/step": step})

    def close(self) -> None:
        """Write what is left."""
        self.run.finish()


def by_start(metrics: dict[str, Any]) -> dict[str, dict[int, float]]:
    """The metrics that are numbers by start, those by role and start as one for each role."""
    found = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            continue
        nested = {f"{name}/{role}": numbers for role, numbers in value.items() if isinstance(numbers, dict)}
        found |= nested or ({name: value} if value else {})
    return found


def bars(numbers: dict[int, float]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Heights and edges of at most 64 bars: each the mean over the starts in it, 0 where there are none."""
    starts = sorted(numbers)
    edges = numpy.linspace(starts[0], starts[-1] + 1, min(_BARS, len(starts)) + 1)
    sums, _ = numpy.histogram(starts, edges, weights=[numbers[start] for start in starts])
    counts, _ = numpy.histogram(starts, edges)
    return sums / numpy.maximum(counts, 1), edges
