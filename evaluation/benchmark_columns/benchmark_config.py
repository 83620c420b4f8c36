"""Declare the keys of VBench and of the image encoders, and check what needs no network."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from models.keys import KeyGroup, key
from models.user_paths import user_path

COLUMN_DIMENSIONS = (
    "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree",
    "aesthetic_quality", "imaging_quality", "overall_consistency",
)  # fmt: skip
"""Dimensions of VBench that the paper's columns are composed of."""
OTHER_DIMENSIONS = ("temporal_flickering", "temporal_style", "human_action")
"""Further dimensions that VBench computes for videos of any prompt."""
PROMPT_DIMENSIONS = frozenset({"overall_consistency", "temporal_style", "human_action", "clip_score"})
"""Dimensions that compare a video with its prompt."""
_IMPORT_S = 120.0
_HAS_VBENCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vbench') is None)"


@dataclass(kw_only=True)
class VBenchConfig(KeyGroup, group="vbench"):
    """Describe the environment that VBench runs in, and what it computes."""

    python: str | None = key(None, "Python interpreter whose environment has the package vbench; none: no VBench")
    cache: str | None = key(None, "folder of VBench's weights (VBENCH_CACHE_DIR); none: its own default")
    device: str = key("cuda", "device that VBench computes on, as torch names it")
    dimensions: list[str] = key(list(COLUMN_DIMENSIONS), "dimensions of VBench to compute")
    clip_s: float = key(2.0, "length of the clips that a video is cut into, in seconds", gt=0)
    timeout_s: float = key(
        43200.0, "longest time for one dimension of all videos, in seconds; then it is missing", gt=0
    )
    clip: str | None = key(
        None, "folder of OpenAI's CLIP ViT-B/32 in the format of transformers, for the CLIP score; none: no CLIP score"
    )

    def __post_init__(self):
        super().__post_init__()
        known = COLUMN_DIMENSIONS + OTHER_DIMENSIONS
        for dimension in self.dimensions:
            if dimension not in known:
                raise ConfigError("vbench.dimensions", dimension, "no such dimension", f"choose of {', '.join(known)}")


@dataclass(kw_only=True)
class EmbeddingConfig(KeyGroup, group="embeddings"):
    """Describe the image encoders that follow text alignment and identity over time."""

    clip: str | None = key(
        None, "folder of a CLIP in the format of transformers, for text alignment; none: not measured"
    )
    identity: str | None = key(
        None, "folder of a DINO, DINOv2 or CLIP in the format of transformers, for identity; none: not measured"
    )
    device: str = key("cpu", "device that the encoders compute on, as torch names it")
    frames_per_s: int = key(2, "frames of each second that are encoded", ge=1, le=240)
    batch: int = key(16, "frames that are encoded together", ge=1, le=4096)


def check_vbench(config: VBenchConfig) -> None:
    """Check the interpreter and the folder of weights. Raises ConfigError."""
    if config.cache is not None and not user_path(config.cache, "vbench.cache").is_dir():
        raise ConfigError(
            "vbench.cache", config.cache, "there is no such folder", "name the folder of VBench's weights"
        )
    if config.python is None:
        return
    python = vbench_python(config.python)
    fix = "name a Python interpreter whose environment has vbench"
    try:
        found = subprocess.run(
            [python, "-c", _HAS_VBENCH], stdin=subprocess.DEVNULL, capture_output=True, timeout=_IMPORT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"it does not run ({type(error).__name__})"
        raise ConfigError("vbench.python", config.python, problem, fix) from error
    if found.returncode:
        raise ConfigError("vbench.python", config.python, "its environment has no package vbench", fix)


def vbench_python(given: str) -> Path:
    """Return the path of the interpreter. A link is not followed: an environment is found by its link's place."""
    return user_path(given, "vbench.python").absolute()
