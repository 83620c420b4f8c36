"""Compute the CLIP score of VBench's competition protocol: eight frames of a clip against the prompt."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy

from models.video_stream import probe, stream_frames
from rewards.learned.image_encoders import ImageEncoder

FRAMES = 8


def clip_score(clips: Sequence[Path], prompt: str, encoder: ImageEncoder) -> float:
    """Compute the mean cosine of a video's clips with its prompt. Raises UnreadableVideo.

    The paper's encoder is OpenAI's CLIP ViT-B/32.
    """
    text = encoder.encode_text(prompt)
    scores = []
    for clip in clips:
        chosen = middle_frames(probe(clip).declared_frames)
        frames = enumerate(stream_frames(clip))
        pictures = {i: encoder.prepare(frame.pixels) for i, frame in frames if i in chosen}
        scores.append(float((encoder.encode([pictures[i] for i in chosen]) @ text).mean()))
    return sum(scores) / len(scores)


def middle_frames(count: int) -> list[int]:
    """Return the middle of each of eight parts of `count` frames; of a shorter clip all, then the last one again."""
    edges = numpy.linspace(0, count, min(FRAMES, count) + 1).astype(int)
    middles = [int(first + behind - 1) // 2 for first, behind in pairwise(edges)]
    return middles + [middles[-1]] * (FRAMES - len(middles))
