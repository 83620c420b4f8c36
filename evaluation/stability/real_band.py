"""Learn from real videos what frames look like: the absolute reference of the proxy of Visual Stability.

A frame lies inside the band where a frame of some real video looks alike: Kynkaanniemi et al.'s nearest-neighbour
manifold (1904.06991), on nine plain numbers of a frame instead of a network's features.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import islice

import numpy
import torch
from scipy.spatial import cKDTree

from evaluation.frame_statistics import FrameView, look, view
from evaluation.video_files import video_files
from models.errors import ConfigError
from models.video_stream import UnreadableVideo, stream_frames
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import SIZE, sample_video

LIMITS = (2.0, 4.0)
"""Distances, in radii of the band, from which a frame begins to be unlike real ones, and is so altogether."""
TINY = "tiny"
"""Name of the tiny world's band, in place of a folder."""
_FRAMES = 8
"""Frames of each film, a second apart."""
_RADIUS_PERCENTILE = 95
_LEAST_SPREAD = 0.1
"""CIELAB units below which real videos do not differ."""
_TINY_VIDEOS = 1440
"""Real videos of the tiny world, one frame of each: every prompt in twenty lights and places; 0.7 s on one core."""
_TINY_ROWS = 96


class RealBand:
    """Holds the looks of frames of real videos, and compares other frames with the nearest of them."""

    def __init__(self, videos: Sequence[Sequence[numpy.ndarray]]) -> None:
        """Take the looks [9] of some frames of each video, of two videos at least.

        The radius is the distance within which 95 % of the frames find one of another video.
        """
        looks = numpy.stack([one for looks in videos for one in looks])
        self.digest = sha256(looks.round(3).tobytes()).hexdigest()
        owner = numpy.repeat(numpy.arange(len(videos)), [len(looks) for looks in videos])
        self.mean, self.spread = looks.mean(0), numpy.maximum(looks.std(0), _LEAST_SPREAD)
        scaled = (looks - self.mean) / self.spread
        self._tree = cKDTree(scaled)
        distances, indices = self._tree.query(scaled, max(len(looks) for looks in videos) + 1)
        others = numpy.where(owner[indices] == owner[:, None], numpy.inf, distances).min(1)
        self.radius = float(numpy.percentile(others, _RADIUS_PERCENTILE))

    def unlike(self, frame: FrameView) -> float:
        """Return how unlike real frames a frame looks: 0 up to the first of LIMITS, 1 from the last on."""
        distance, _ = self._tree.query((look(frame) - self.mean) / self.spread)
        return float(numpy.interp(distance / self.radius, LIMITS, (0, 1)))


@lru_cache(maxsize=1)
def tiny_band() -> RealBand:
    """Learn the band of the tiny world from videos that it draws; enlarged as those of its students are."""
    generator = torch.Generator().manual_seed(0)
    videos = []
    for number in range(_TINY_VIDEOS):
        frame = sample_video(PROMPTS[number % len(PROMPTS)], 1, generator)[0]
        pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
        videos.append([look(view(pixels.repeat(_TINY_ROWS // SIZE, 0).repeat(_TINY_ROWS // SIZE, 1)))])
    return RealBand(videos)


@lru_cache(maxsize=1)
def read_band(source: str) -> RealBand:
    """Learn the band of the films of a folder, or the tiny world's where `source` is `tiny`. Raises ConfigError."""
    if source == TINY:
        return tiny_band()
    videos = []
    for path in (path for path in video_files(source, "real_videos") if path.suffix.lower() != ".safetensors"):
        try:
            videos.append([look(view(frame.pixels)) for frame in islice(stream_frames(path, 1.0), _FRAMES)])
        except UnreadableVideo as error:
            raise ConfigError("real_videos", path, f"it cannot be decoded ({error})", "repair or remove it") from error
    if len(videos) < 2:
        raise ConfigError("real_videos", source, f"it holds {len(videos)} films", "name a folder of two films or more")
    return RealBand(videos)
