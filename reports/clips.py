"""Turn the frames of a video into what a page embeds: a small film, or all pixels of a tiny one, and still frames."""

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import av
import cv2
import numpy
from PIL import Image

from models.video_stream import Frame

FILM_ROWS, FILM_COLUMNS = 192, 342
"""Most rows and columns of an embedded film."""
FILM_FPS, FILM_FRAMES = 8.0, 480
"""Most frames per second, and in all: of more than a minute fewer per second."""
SHEET_ROWS, SHEET_FRAMES = 48, 960
"""Most rows of a video that is embedded pixel by pixel, and most of its frames."""
_SHEET_COLUMNS = 64
_QUALITY = {"preset": "veryfast", "profile": "baseline", "crf": "27", "rc-lookahead": "0"}
"""Options of x264. Its lookahead reads memory that it has not written, so the same film would have other bytes."""
_STILL_QUALITY = 82
_NEAR = 1e-6


@dataclass(frozen=True)
class ClipPlan:
    """Describes a video, and how a page embeds it."""

    height: int
    width: int
    seconds: float
    fps: float
    stops: Sequence[float]
    """Seconds of the still frames; the last frame comes behind them."""
    most_bytes: int
    """Size of a film, about; a sheet takes what its pixels take."""

    @property
    def is_film(self) -> bool:
        """Return whether the video is too large to be embedded pixel by pixel."""
        return self.height > SHEET_ROWS

    @property
    def rate(self) -> float:
        """Return the frames per second of the clip; those between need not be converted."""
        most, count = (min(FILM_FPS, self.fps), FILM_FRAMES) if self.is_film else (self.fps, SHEET_FRAMES)
        return min(most, count / self.seconds)

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the clip; both even in a film, as H.264 needs them."""
        if not self.is_film:
            return self.height, self.width
        scale = min(1.0, FILM_ROWS / self.height, FILM_COLUMNS / self.width)
        height, width = (max(2, 2 * round(side * scale / 2)) for side in (self.height, self.width))
        return height, width


@dataclass(frozen=True)
class PageClip:
    """Holds a video as the page's player takes it."""

    source: str
    """Data address of an mp4 film, or of a PNG sheet with all frames, row by row."""
    height: int
    width: int
    frames: int
    fps: float
    columns: int
    """Frames in a row of the sheet; 0 for a film."""
    stills: Sequence[str]
    """Data addresses of the frames that the player shows at the stops, and of the last one."""


def make_clip(frames: Iterable[Frame], plan: ClipPlan) -> PageClip:
    """Build the clip of a video from its frames. Raises ValueError without frames."""
    height, width = plan.size
    pictures = [_resized(pixels, height, width) for pixels in _at_rate(frames, plan.rate)]
    if not pictures:
        raise ValueError("a video without frames has no clip")
    numbers = [math.floor(stop * plan.rate + _NEAR) for stop in plan.stops]
    chosen = [pictures[number] for number in numbers if number < len(pictures)] + [pictures[-1]]
    if plan.is_film:
        source, columns = data_address("video/mp4", _film(pictures, plan)), 0
        stills = [data_address("image/jpeg", _jpeg(picture)) for picture in chosen]
    else:
        columns = min(_SHEET_COLUMNS, len(pictures))
        source = data_address("image/png", png_bytes(Image.fromarray(_sheet(pictures, columns))))
        stills = [data_address("image/png", png_bytes(Image.fromarray(picture))) for picture in chosen]
    return PageClip(source, height, width, len(pictures), plan.rate, columns, stills)


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """Write a file of a media type as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _at_rate(frames: Iterable[Frame], rate: float) -> Iterator[numpy.ndarray]:
    """Yield the first frame at or after each tick of `rate`, more than once where the video has a gap."""
    due = 0
    for frame in frames:
        while frame.time_s * rate >= due - _NEAR:
            yield frame.pixels
            due += 1


def _resized(pixels: numpy.ndarray, height: int, width: int) -> numpy.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _film(pictures: Sequence[numpy.ndarray], plan: ClipPlan) -> bytes:
    """Encode H.264 with a key frame per second, so that moving the cursor is quick."""
    file = BytesIO()
    bits = max(1000, int(8 * plan.most_bytes / plan.seconds))
    limits = {"maxrate": str(bits), "bufsize": str(2 * bits)}
    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(plan.rate).limit_denominator(10_000)
        stream = container.add_stream("libx264", rate=rate, options=_QUALITY | limits)
        (stream.height, stream.width), stream.pix_fmt = plan.size, "yuv420p"
        # One thread: more would cut frames into slices, and make other bytes on other machines.
        stream.codec_context.gop_size, stream.codec_context.thread_count = max(1, math.ceil(plan.rate)), 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _sheet(pictures: Sequence[numpy.ndarray], columns: int) -> numpy.ndarray:
    """Put frames [H W 3] side by side, `columns` in a row; the last row is filled up with black."""
    height, width = pictures[0].shape[:2]
    rows = math.ceil(len(pictures) / columns)
    sheet = numpy.zeros((rows, height, columns, width, 3), numpy.uint8)
    for i, picture in enumerate(pictures):
        sheet[i // columns, :, i % columns] = picture
    return sheet.reshape(rows * height, columns * width, 3)


def _jpeg(picture: numpy.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_STILL_QUALITY)
    return buffer.getvalue()
