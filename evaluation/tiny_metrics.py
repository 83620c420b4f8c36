"""Measure quality over time in the tiny world, one number per segment of one teacher horizon.

The paper's claim concerns the time after the horizon, so no metric is averaged over a whole video.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.worlds.tiny_judge import judge
from rewards.drift import exposure_drift
from rewards.object_motion import displacement, frozen, moving_pairs, prompted_speed


def segment_metrics(video: Tensor, prompts: Sequence[str], horizon_frames: int) -> dict[str, list[float]]:
    """Judge `video` [B T 3 H W] of the tiny world, values in [0, 1], segment by segment.

    Every list has T / horizon_frames numbers, each over all videos and all frames or pairs of its segment. A
    pair of consecutive frames belongs to the segment of its second; the first segment has one pair fewer.

    - validity: share of frames that are a rendering of the prompted scene
    - exposure_drift: mean distance to the mean brightness of the same video's first segment, in pixel value
    - out_of_range: share of frames whose wall is darker or brighter than the world's walls ever are
    - dynamic_degree: share of pairs that are valid in both frames and move at about the prompted speed
    - frozen_share: share of pairs, valid or not, that move less than a quarter of it
    - speed: median displacement of a pair, valid or not, over the prompted speed

    Raises ValueError when T is no multiple of `horizon_frames`, when that is below 2, and where `judge` does.
    """
    return summarise_segments(segment_values(video, prompts, horizon_frames))


def segment_values(video: Tensor, prompts: Sequence[str], horizon_frames: int) -> dict[str, list[Tensor]]:
    """Judge `video`: by metric and segment, values [B N] of all frames or pairs. Raises as `segment_metrics`."""
    if horizon_frames < 2:
        raise ValueError(f"a segment must hold a pair of frames; got horizon_frames={horizon_frames}")
    verdict = judge(video, prompts)
    frames = video.shape[1]
    if frames % horizon_frames:
        raise ValueError(f"a video of {frames} frames has no whole number of segments of {horizon_frames} frames")
    speed = prompted_speed(prompts)
    moved = displacement(verdict.position)
    ends = tuple(range(horizon_frames - 1, frames - 1, horizon_frames))
    return {
        "validity": list(verdict.valid.split(horizon_frames, dim=1)),
        "exposure_drift": list(exposure_drift(video, horizon_frames).split(horizon_frames, dim=1)),
        "out_of_range": list((~verdict.level_in_range).split(horizon_frames, dim=1)),
        "dynamic_degree": list(moving_pairs(verdict, prompts).tensor_split(ends, dim=1)),
        "frozen_share": list(frozen(moved, speed).tensor_split(ends, dim=1)),
        "speed": list((moved / speed[:, None]).tensor_split(ends, dim=1)),
    }


def summarise_segments(values: Mapping[str, Sequence[Tensor]], videos: slice = slice(None)) -> dict[str, list[float]]:
    """Compute one number per metric and segment over the chosen `videos`: a mean, of `speed` the median."""
    return {
        name: [(_median if name == "speed" else _mean)(segment[videos]) for segment in segments]
        for name, segments in values.items()
    }


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _median(values: Tensor) -> float:
    return values.quantile(0.5).item()
