"""Stream a film as upright RGB with times, in memory that does not grow with length, and encode RGB as a film."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy
from av.video.reformatter import ColorRange, Colorspace

from models.errors import StopsRun
from models.file_kinds import VIDEOS, other_kind

_BT709 = 1
"""FFmpeg's number of BT.709 as matrix, primaries and transfer."""
_NO_MATRIX = 2
"""FFmpeg's AVCOL_SPC_UNSPECIFIED, which PyAV's enumeration lacks."""
_HDR_TRANSFERS = (16, 18)
"""FFmpeg's numbers of PQ and HLG."""
_LARGE_ROWS = 720
"""From this height on, players take films without a colour matrix for BT.709, below for BT.601."""
_LEAST_SHARE = 0.95
"""Share of the declared frames below which a file counts as truncated; edit lists hide a few."""
_FALLBACK_FPS = 16.0
_NEAR_S = 1e-6


class UnreadableVideo(StopsRun):
    """Tells why a file cannot be judged."""


class Frame(NamedTuple):
    """A decoded frame."""

    time_s: float
    """Seconds since the first frame."""
    pixels: numpy.ndarray
    """[H W 3] uint8, RGB, full range."""


@dataclass(frozen=True)
class VideoInfo:
    """Describe a film as its file declares it."""

    fps: float
    height: int
    width: int
    declared_frames: int
    """0 where the file does not say."""
    duration_s: float = 0.0
    """0 where the file does not say."""
    is_hdr: bool = False
    """Whether its transfer is PQ or HLG, which this module's RGB is not made from."""

    @property
    def expected_frames(self) -> int:
        """Return the declared frames, else those of the duration: mkv and webm declare only that."""
        return self.declared_frames or round(self.duration_s * self.fps)


def probe(path: Path) -> VideoInfo:
    """Read a film's shape without decoding it, but for the rotation of its first frame. Raises UnreadableVideo."""
    try:
        with _opened(path) as (film, stream):
            first = next(film.decode(stream), None)
            if first is None:
                raise UnreadableVideo(f"{path.name} has no frames")
            height, width = upright(_rgb(first), first.rotation).shape[:2]
            duration_s = 0.0 if film.duration is None else film.duration / av.time_base
            is_hdr = first.color_trc in _HDR_TRANSFERS
            return VideoInfo(_fps(stream), height, width, stream.frames, duration_s, is_hdr)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path.name} cannot be decoded ({error.strerror})") from error


def stream_frames(path: Path, spacing_s: float = 0.0) -> Iterator[Frame]:
    """Yield the frames of a film one by one. Raises UnreadableVideo, also in the middle of a truncated file.

    Of each stretch of `spacing_s` seconds only the first frame: the others are decoded, but not converted to RGB.
    """
    count, due_s = 0, -math.inf
    try:
        with _opened(path) as (film, stream):
            stream.thread_type = "AUTO"
            fps, began_s, shape = _fps(stream), None, None
            for picture in film.decode(stream):
                time_s = picture.time if picture.time is not None else count / fps
                began_s = time_s if began_s is None else began_s
                count += 1
                if time_s - began_s < due_s - _NEAR_S:
                    continue
                if spacing_s:
                    due_s = (math.floor((time_s - began_s + _NEAR_S) / spacing_s) + 1) * spacing_s
                if picture.color_trc in _HDR_TRANSFERS:
                    raise UnreadableVideo(f"{path.name} has high dynamic range: map its tones to BT.709 first")
                pixels = upright(_rgb(picture), picture.rotation)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    raise UnreadableVideo(f"{path.name} changes its size from {shape[:2]} to {pixels.shape[:2]}")
                yield Frame(max(0.0, time_s - began_s), pixels)
            if count < _LEAST_SHARE * stream.frames:
                raise UnreadableVideo(f"{path.name} is truncated: {count} of {stream.frames} frames can be decoded")
            tagged_s = _tagged_s(stream)
            if count and tagged_s:
                reached_s = time_s - began_s + max(1 / fps, float((picture.duration or 0) * picture.time_base))
                if reached_s < _LEAST_SHARE * tagged_s:
                    raise UnreadableVideo(
                        f"{path.name} is truncated: {reached_s:.1f} of {tagged_s:.1f} s can be decoded"
                    )
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path.name} cannot be decoded behind frame {count} ({error.strerror})") from error
    if not count:
        raise UnreadableVideo(f"{path.name} has no frames")


def array_frames(video: numpy.ndarray, fps: float) -> Iterator[Frame]:
    """Yield the frames of `video` [T H W 3] uint8."""
    for i, pixels in enumerate(video):
        yield Frame(i / fps, pixels)


def upright(pixels: numpy.ndarray, degrees: int) -> numpy.ndarray:
    """Turn a picture [H W 3] as the file's rotation says, in quarters of a turn."""
    return numpy.ascontiguousarray(numpy.rot90(pixels, round(degrees / 90) % 4))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a film, and name a file of another kind, such as a Git LFS pointer, which FFmpeg calls invalid data."""
    if kind := other_kind(path, VIDEOS | {"gif"}):
        raise UnreadableVideo(f"{path.name} is {kind.label}: {kind.cure}")
    with av.open(str(path), metadata_errors="replace") as film:
        if not film.streams.video:
            raise UnreadableVideo(f"{path.name} has no video stream")
        yield film, film.streams.video[0]


def _fps(stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else _FALLBACK_FPS


def _tagged_s(stream: av.VideoStream) -> float:
    """Return the seconds that mkv and webm note of a stream, which declares no frames there; 0 without a note."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _rgb(picture: av.VideoFrame) -> numpy.ndarray:
    matrix = picture.colorspace
    if matrix == _NO_MATRIX:
        matrix = Colorspace.ITU709 if picture.height >= _LARGE_ROWS else Colorspace.ITU601
    full = picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj")
    source = ColorRange.JPEG if full else ColorRange.MPEG
    if picture.format.is_rgb or picture.format.name.startswith(("gray", "pal")):
        return picture.to_ndarray(format="rgb24")
    turned = picture.reformat(
        format="rgb24", src_colorspace=matrix, src_color_range=source, dst_color_range=ColorRange.JPEG
    )
    return turned.to_ndarray()


def to_bt709(picture: numpy.ndarray) -> av.VideoFrame:
    """Convert RGB [H W 3] to BT.709 in limited range, 4:2:0. Else swscale takes the matrix of BT.601 at any size."""
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )  # fmt: skip


def set_picture(context: av.VideoCodecContext, height: int, width: int) -> None:
    """Set the shape of an encoder's pictures, and tag their colours as `to_bt709` makes them."""
    context.height, context.width, context.pix_fmt = height, width, "yuv420p"
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = ColorRange.MPEG
    context.thread_count = 1  # more would cut frames into slices: other bytes on other machines


def write_pictures(
    container: av.container.OutputContainer, stream: av.VideoStream, pictures: Iterable[av.VideoFrame | None]
) -> int:
    """Encode pictures into a container, None for those that the encoder still holds; returns the packets written."""
    count = 0
    for picture in pictures:
        packets = stream.encode(picture)
        container.mux(packets)
        count += len(packets)
    return count
