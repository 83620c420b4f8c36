"""Convert between latents and pixels: the tiny world's codec, and image latents."""

from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from models.worlds import tiny_world

if TYPE_CHECKING:
    from models.wan.tiny_decoder import TinyDecoderCodec
    from models.wan.vae import WanCodec


class TinyCodec:
    """Codes the tiny world: a latent frame is a video frame, in other units."""

    channels, time_stride, space_stride = 3, 1, 1

    def decode(self, latents: Tensor, past: None = None) -> tuple[Tensor, None]:
        """Decode to pixels [B F 3 H W]; frames are independent."""
        return tiny_world.to_pixels(latents), None

    def encode(self, video: Tensor) -> Tensor:
        """Encode to latents [B T 3 H W]."""
        return tiny_world.to_latents(video)


VideoCodec = Union[TinyCodec, "WanCodec", "TinyDecoderCodec"]
"""Maps pixels [B T 3 H W] in [0, 1] to latents [B F C H W] of about unit variance, and back.

A latent frame has `channels`; all but the first are `time_stride` video frames, a row or column `space_stride` of
pixels. `decode` takes the state behind the frames before (None at the beginning of a video) and returns the next one.
A state is never written again: two continuations may share it.
"""


def video_frames(codec: VideoCodec, latent_frames: int) -> int:
    """Count the video frames of the first `latent_frames` frames of a video: 81 of 21 in Wan."""
    return 1 + codec.time_stride * (latent_frames - 1) if latent_frames else 0


def image_latent(codec: VideoCodec, latents: Tensor, past: Any = None) -> Tensor:
    """Encode the last of `latents` [B F C H W] as the first frame of its own video: [B 1 C H W].

    A bidirectional teacher knows first frames only as encoded images, so its windows from the middle of a video begin
    with this one (algorithm.md 8.11). `past` is the decoder's state behind the frames before `latents`.
    """
    pixels, _ = codec.decode(latents, past)
    return codec.encode(pixels[:, -1:])


@torch.no_grad()
def window_image_latents(codec: VideoCodec, before: Tensor, first: Tensor) -> Tensor | None:
    """Return the `image_latent` of each of `first` [G C H W], for the teacher in place of windows' first frames.

    All of them continue the clean frames `before` [P C H W]. None where a frame is one itself: at the beginning of a
    video, and where all latent frames are of one kind. The decoder starts at the first of `before` and lacks older
    frames: exact for a video that begins there, else as near as the frames that a window carries.
    """
    if not len(before) or codec.time_stride == 1:
        return None
    past = None
    for frame in before[None].split(1, dim=1):  # the pixels of all of them at once would be gigabytes
        _, past = codec.decode(frame, past)
    return torch.cat([image_latent(codec, frame[None, None], past)[0] for frame in first])
