"""Between latents and pixels: what a codec is, and that of the tiny world."""

from typing import Any, Protocol

import torch
from torch import Tensor

from models.worlds import tiny_world


class VideoCodec(Protocol):
    """Pixels are [B T 3 H W] in [0, 1], latents [B F C H W] of about unit variance."""

    channels: int
    """Of a latent frame."""
    time_stride: int
    """Video frames of every latent frame but the first, which is one."""
    space_stride: int
    """Rows (columns) of pixels of one row (column) of a latent frame."""

    def decode(self, latents: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """Pixels of the next frames of a video, and what the frames after them need to know.

        `past` is what the frames before gave back, None at the beginning of a video. It is never written again: two
        continuations may go on from one.
        """
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Latents of whole videos of 1 + n `time_stride` frames."""
        ...


class TinyCodec:
    """The tiny world's: a latent frame is a video frame, in other units."""

    channels, time_stride, space_stride = 3, 1, 1

    def decode(self, latents: Tensor, past: None = None) -> tuple[Tensor, None]:
        """Pixels [B F 3 H W]; frames need to know nothing of each other."""
        return tiny_world.to_pixels(latents), None

    def encode(self, video: Tensor) -> Tensor:
        """Latents [B T 3 H W]."""
        return tiny_world.to_latents(video)


def video_frames(codec: VideoCodec, latent_frames: int) -> int:
    """Video frames of the first `latent_frames` frames of a video: 81 of 21 in Wan."""
    return 1 + codec.time_stride * (latent_frames - 1) if latent_frames else 0


def image_latent(codec: VideoCodec, latents: Tensor, past: Any = None) -> Tensor:
    """The last of `latents` [B F C H W] as the first frame of a video of its own: [B 1 C H W].

    A bidirectional teacher knows first frames only as encoded images. What it is shown from the middle of a video
    begins with this one (algorithm.md 8.11). `past` is what decoding the frames before `latents` gave back.
    """
    pixels, _ = codec.decode(latents, past)
    return codec.encode(pixels[:, -1:])


@torch.no_grad()
def window_image_latents(codec: VideoCodec, before: Tensor, first: Tensor) -> Tensor | None:
    """What a teacher is shown in place of the first frames of windows: `image_latent` of each of `first` [G C H W].

    All of them go on from the clean frames `before` [P C H W]. None where a frame is itself what the teacher knows: at
    the beginning of a video, and where all latent frames are of one kind. The decoder starts at the first of `before`
    and forgets older frames: exact for a video that begins there, else as near as the frames that a window carries.
    """
    if not len(before) or codec.time_stride == 1:
        return None
    past = None
    for frame in before[None].split(1, dim=1):  # the pixels of all of them at once would be gigabytes
        _, past = codec.decode(frame, past)
    return torch.cat([image_latent(codec, frame[None, None], past)[0] for frame in first])
