"""Score clips by HPSv3 and by VideoAlign's VideoReward, each loaded once per process."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

import av
import numpy
import torch
from PIL import Image
from torch import Tensor

from models.checkpoints.hub import require_named, weights_path
from models.errors import ConfigError
from models.user_paths import existing_path
from models.video_stream import set_picture, to_bt709, write_pictures
from rewards.learned.clip_reward import spaced_frames
from rewards.learned.model_process import ModelFailed, ModelProcess
from rewards.reward import Clip, ClipReward
from rewards.reward_config import RewardConfig

model_process = lru_cache(maxsize=4)(ModelProcess)
"""Keeps one model of a kind in each process: the three scores of VideoAlign come from one."""


class HPSv3(ClipReward):
    """Scores human preference for the frames of a clip (HPSv3). Blind to motion: pair it with a term of motion."""

    needs = frozenset({"pixels", "text"})

    def __init__(self, config: RewardConfig):
        """Check the paths. Raises ConfigError."""
        super().__init__(config)
        config.learned.require("hpsv3")
        existing_path(config.learned.hpsv3_python, "reward.learned.hpsv3_python")
        if config.learned.hpsv3_weights is not None:
            require_named(config.learned.hpsv3_weights, "reward.learned.hpsv3_weights")

    @cached_property
    def _model(self) -> ModelProcess:
        """Return the process; weights of the hub are found, or downloaded, here. Raises ConfigError."""
        learned = self.config.learned
        python = str(existing_path(learned.hpsv3_python, "reward.learned.hpsv3_python"))
        arguments = ["hpsv3", learned.device]
        if learned.hpsv3_weights is not None:
            arguments.append(str(_one_file(learned.hpsv3_weights, "reward.learned.hpsv3_weights")))
        return model_process(python, tuple(arguments), learned.start_timeout_s, self.config.timeout_s)

    def load(self) -> None:
        _load(self._model, "reward.learned.hpsv3_python", self.config.learned.hpsv3_python)

    def score(self, clip: Clip) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{i}.png") for i in range(self.config.learned.frames)]
            frames = spaced_frames(clip, self.config.learned.frames)
            for file, frame in zip(files, frames, strict=False):
                Image.fromarray(frame.numpy()).save(file)
            return torch.tensor(self._model.rate(clip.prompt, files[: len(frames)])["hpsv3"])


@dataclass(frozen=True)
class _Rating:
    """Rates a clip in all dimensions. Equal for the three rewards, so that a clip is rated once."""

    model: ModelProcess
    fps: float

    def __call__(self, clip: Clip) -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "clip.mp4")
            _write_video(file, spaced_frames(clip, len(clip.pixels)).numpy(), self.fps)
            return self.model.rate(clip.prompt, [file])


class _VideoAlign(ClipReward):
    """Scores one dimension of VideoAlign's VideoReward, in deviations of its own training videos."""

    needs = frozenset({"pixels", "text"})
    dimension: ClassVar[str]

    def __init__(self, config: RewardConfig):
        """Check the paths. Raises ConfigError."""
        super().__init__(config)
        config.learned.require("videoalign_vq")
        for name in ("videoalign_python", "videoalign_code"):
            existing_path(getattr(config.learned, name), f"reward.learned.{name}")
        require_named(config.learned.videoalign_weights, "reward.learned.videoalign_weights")

    @cached_property
    def _model(self) -> ModelProcess:
        """Return the process; weights of the hub are found, or downloaded, here. Raises ConfigError."""
        learned = self.config.learned
        python, code = (
            str(existing_path(getattr(learned, name), f"reward.learned.{name}"))
            for name in ("videoalign_python", "videoalign_code")
        )
        weights = str(weights_path(learned.videoalign_weights, "reward.learned.videoalign_weights").absolute())
        arguments = ("videoalign", learned.device, weights, code)
        return model_process(python, arguments, learned.start_timeout_s, self.config.timeout_s)

    def load(self) -> None:
        _load(self._model, "reward.learned.videoalign_python", self.config.learned.videoalign_python)

    def score(self, clip: Clip) -> Tensor:
        return torch.tensor(clip.once(_Rating(self._model, self.config.learned.fps))[self.dimension])


class VideoAlignVisual(_VideoAlign):
    """Scores visual quality (VQ)."""

    dimension = "VQ"


class VideoAlignMotion(_VideoAlign):
    """Scores motion quality (MQ); it prefers some colours, so watch saturation."""

    dimension = "MQ"


class VideoAlignText(_VideoAlign):
    """Scores text alignment (TA)."""

    dimension = "TA"


def _one_file(given: str, key: str) -> Path:
    """Return the path of the one file of weights that `given` means. Raises ConfigError."""
    path = weights_path(given, key).absolute()
    if not path.is_dir():
        return path
    held = sorted(path.glob("*.safetensors"))
    if len(held) != 1:
        raise ConfigError(key, given, f"holds {len(held)} files *.safetensors at its top", f"write {key}=FILE")
    return held[0]


def _load(model: ModelProcess, key: str, python: str | None) -> None:
    try:
        model.load()
    except (ModelFailed, OSError) as error:
        raise ConfigError(key, python, f"the model does not load ({error})", "see docs/guide/rewards.md") from error


def _write_video(path: Path, frames: numpy.ndarray, fps: float) -> None:
    """Write frames [T H W 3] as H.264; sizes are cut to even ones, which its colours need."""
    height, width = (max(2, side - side % 2) for side in frames.shape[1:3])
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12"})
        set_picture(stream.codec_context, height, width)
        pictures = (to_bt709(numpy.ascontiguousarray(frame)) for frame in frames[:, :height, :width])
        write_pictures(film, stream, chain(pictures, [None]))
