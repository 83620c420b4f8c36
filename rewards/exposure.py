"""Exposure: how bright a video is, and how far it drifts from its own beginning. No judge, no prompt."""

from torch import Tensor


def brightness(video: Tensor) -> Tensor:
    """Mean pixel value [B T] of every frame of `video` [B T C H W], in the video's own units."""
    return video.mean((2, 3, 4))


def exposure_drift(video: Tensor, horizon_frames: int) -> Tensor:
    """Distance [B T] of every frame's brightness to the mean over its own video's first `horizon_frames`.

    Each video is its own reference: the prompt does not say how bright it should be. Up and down count alike.
    """
    level = brightness(video)
    return (level - level[:, :horizon_frames].mean(1, keepdim=True)).abs()


def luma(pixels: Tensor) -> Tensor:
    """Luma (Rec. 601) [... H W] of `pixels` [... 3 H W]: brightness as the eye weighs the colours."""
    red, green, blue = pixels.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue
