"""Score clips by HPSv3 and by VideoAlign's VideoReward, each loaded once per process."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import av
import numpy
import torch
from PIL import Image
from torch import Tensor

from models.errors import ConfigError
from models.user_paths import existing_path
from models.video_stream import set_picture, to_bt709
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
        learned = config.learned
        learned.require("hpsv3")
        python = str(existing_path(learned.hpsv3_python, "reward.learned.hpsv3_python"))
        arguments = ["hpsv3", learned.device]
        if learned.hpsv3_weights is not None:
            arguments.append(str(existing_path(learned.hpsv3_weights, "reward.learned.hpsv3_weights")))
        self._model = model_process(python, tuple(arguments), learned.start_timeout_s, config.timeout_s)

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
        learned = config.learned
        learned.require("videoalign_vq")
        names = ("videoalign_python", "videoalign_weights", "videoalign_code")
        python, *paths = (str(existing_path(getattr(learned, name), f"reward.learned.{name}")) for name in names)
        arguments = ("videoalign", learned.device, *paths)
        self._model = model_process(python, arguments, learned.start_timeout_s, config.timeout_s)
        self._rating = _Rating(self._model, learned.fps)

    def load(self) -> None:
        _load(self._model, "reward.learned.videoalign_python", self.config.learned.videoalign_python)

    def score(self, clip: Clip) -> Tensor:
        return torch.tensor(clip.once(self._rating)[self.dimension])


class VideoAlignVisual(_VideoAlign):
    """Scores visual quality (VQ)."""

    dimension = "VQ"


class VideoAlignMotion(_VideoAlign):
    """Scores motion quality (MQ); it prefers some colours, so watch saturation."""

    dimension = "MQ"


class VideoAlignText(_VideoAlign):
    """Scores text alignment (TA)."""

    dimension = "TA"


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
        for frame in frames[:, :height, :width]:
            film.mux(stream.encode(to_bt709(numpy.ascontiguousarray(frame))))
        film.mux(stream.encode(None))
