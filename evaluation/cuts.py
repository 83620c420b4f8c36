"""Detect cuts between shots frame by frame, by PySceneDetect's adaptive detector."""

import math
from collections.abc import Iterable

import cv2
import numpy
from scenedetect import AdaptiveDetector, FrameTimecode, StatsManager

_WIDTH = 256
"""Columns of the frames that the detector sees; it compares colours, not details."""
_RATIO, _CONTENT = 3.0, 15.0
"""The detector's own thresholds: change over the mean change nearby, and change in units of 255."""
_STEEPNESS = 6.0
_LATE = 2
"""Frames that the detector looks ahead."""


class _LastMetrics(StatsManager):
    """Keeps the metrics of the newest frames only: the base class keeps those of the whole film."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, float] = {}
        self.ratio: dict[int, float] = {}

    def set_metrics(self, timecode: FrameTimecode, metric_kv_dict: dict[str, float]) -> None:
        for name, value in metric_kv_dict.items():
            if name == "content_val":
                self.content[timecode.frame_num] = value
            elif name.startswith("adaptive_ratio"):
                self.ratio[timecode.frame_num] = value

    def metrics_exist(self, timecode: FrameTimecode, metric_keys: Iterable[str]) -> bool:
        return False


class CutMeter:
    """Gives the probability that a shot begins with a frame, of every frame in order, two frames late.

    It is one half where the detector would decide for a cut: `ratio` 3.0 and change 15 of 255.
    """

    def __init__(self) -> None:
        self.metrics = _LastMetrics()
        self.detector = AdaptiveDetector(min_scene_len=1)
        self.detector.stats_manager = self.metrics
        self.frames = 0
        self.known = 0

    def add(self, pixels: numpy.ndarray) -> list[float]:
        """Take a frame [H W 3] uint8; return the probabilities that are known by now, of the frames in order."""
        width = min(_WIDTH, pixels.shape[1])
        size = (width, max(1, round(pixels.shape[0] * width / pixels.shape[1])))
        picture = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        self.detector.process_frame(FrameTimecode(self.frames, 1.0), picture)
        self.frames += 1
        return self._take(self.frames - _LATE)

    def finish(self) -> list[float]:
        """Return the probabilities of the last frames: the detector does not decide about the last two."""
        return self._take(self.frames)

    def _take(self, end: int) -> list[float]:
        """Return the probabilities of the frames before number `end` that were not returned yet."""
        values = []
        while self.known < end:
            content, ratio = self.metrics.content.pop(self.known, 0.0), self.metrics.ratio.pop(self.known, 0.0)
            evidence = min(ratio / _RATIO, content / _CONTENT)
            values.append(1 / (1 + math.exp(_STEEPNESS * (1 - min(evidence, 10.0)))))
            self.known += 1
        return values
