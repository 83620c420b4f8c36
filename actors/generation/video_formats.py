"""Choose the writer of a video by the ending of its file: mp4, mkv, webm, gif, or a folder of png."""

import io
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import av
import numpy
from PIL import Image

from actors.generation.video_writer import H264_QUALITY, Mp4File, VideoWriter
from models.atomic_files import write_atomic
from models.errors import ConfigError
from models.video_stream import set_picture, to_bt709, write_pictures

_GIF_RATE = 50
"""Most frames per second of a GIF: players show shorter delays than 2 hundredths slowly."""
_MOST_SIDE = 16_000
"""Most rows and columns, near the limit of H.264."""
_VP9_QUALITY = {"deadline": "realtime", "cpu-used": "5", "crf": "24", "b": "0", "lag-in-frames": "0"}


class _Form(NamedTuple):
    """Describes a container and its encoder, by FFmpeg's names."""

    container: str
    encoder: str
    options: dict[str, str]
    layout: dict[str, str]
    """Options of the container."""


_CLUSTERS = {"cluster_time_limit": "1", "flush_packets": "1", "fflags": "+bitexact"}
"""One frame in each cluster of Matroska: a killed process leaves all but the newest. Its identifiers are no random
ones, so that a video made again is the same file."""
_FORMS = {
    ".mp4": _Form("mp4", "libx264", H264_QUALITY, {}),
    ".mkv": _Form("matroska", "libx264", H264_QUALITY, _CLUSTERS),
    ".webm": _Form("webm", "libvpx-vp9", _VP9_QUALITY, _CLUSTERS),
    ".gif": _Form("gif", "gif", {}, {"flush_packets": "1"}),
}
VIDEO_ENDINGS = (*_FORMS, ".png")
"""Endings of `out` that name one video; a folder of that name where it ends in .png."""


class ContainerFile:
    """Writes a video of any container into a file that appears with its first frame."""

    def __init__(self, path: Path, form: _Form, rate: Fraction, height: int, width: int):
        self.path, self.form, self.rate, self.size = path, form, rate, (height, width)
        self.name, self.frames, self.container = str(path), 0, None
        self.lock = Lock()  # as in Mp4File

    def write(self, video: numpy.ndarray) -> None:
        """Write the next frames, uint8 [T H W 3]. Raises OSError if the disk is full, or `path` exists."""
        for picture in video:
            with self.lock:
                if self.container is None:
                    self._open()
                frame = _in_256_colours(picture) if self.form.encoder == "gif" else to_bt709(picture)
                self.frames += write_pictures(self.container, self.stream, [frame])
                self.file.flush()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("xb")
        self.container = av.open(self.file, "w", format=self.form.container, options=self.form.layout)
        self.stream = self.container.add_stream(self.form.encoder, rate=self.rate, options=self.form.options)
        set_picture(self.stream.codec_context, *self.size)
        if self.form.encoder == "gif":
            self.stream.codec_context.pix_fmt = "pal8"
        self.stream.codec_context.gop_size = round(self.rate)

    def close(self) -> None:
        """Write the newest frame and the index. Raises OSError if the disk is full."""
        with self.lock:
            if self.container is None:
                return
            try:
                self.frames += write_pictures(self.container, self.stream, [None])
                self.container.close()
            finally:
                self.file.close()


class PngFolder:
    """Writes each frame, without loss, into a folder: 000000.png and so on."""

    def __init__(self, path: Path):
        self.path, self.name, self.frames = path, str(path), 0

    def write(self, video: numpy.ndarray) -> None:
        """Write the next frames, uint8 [T H W 3]. Raises OSError if the disk is full, or `path` exists."""
        if not self.frames:
            self.path.mkdir(parents=True)
        for picture in video:
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            write_atomic(self.path / f"{self.frames:06d}.png", content.getvalue())
            self.frames += 1

    def close(self) -> None:
        """Do nothing: each frame is complete."""


def open_writer(path: Path, rate: Fraction, height: int, width: int) -> VideoWriter:
    """Open the writer for the ending of `path`."""
    ending = path.suffix.lower()
    if ending == ".png":
        return PngFolder(path)
    return Mp4File(path, rate, height, width) if ending == ".mp4" else ContainerFile(
        path, _FORMS[ending], rate, height, width
    )  # fmt: skip


def check_format(path: Path, rate: Fraction, height: int, width: int, enlarge: int = 1) -> None:
    """Open the encoder for `path` once. Raises ConfigError of the key for which it cannot hold such frames."""
    ending = path.suffix.lower()
    if ending == ".png":
        return
    if ending == ".gif" and rate > _GIF_RATE:
        raise ConfigError("fps", rate, f"a GIF has at most {_GIF_RATE} frames per second", f"write fps={_GIF_RATE}")
    context = av.CodecContext.create(_FORMS[ending].encoder, "w")
    set_picture(context, height * enlarge, width * enlarge)
    if ending == ".gif":
        context.pix_fmt = "pal8"
    try:
        context.framerate, context.time_base, context.options = rate, 1 / Fraction(rate), _FORMS[ending].options
        context.open()
    except (av.FFmpegError, OverflowError) as error:
        sizes = {"height": height, "width": width}
        name = max(sizes, key=sizes.get)
        if sizes[name] * enlarge > _MOST_SIDE:
            problem = f"{ending} cannot hold frames of {height * enlarge}x{width * enlarge} pixels"
            key, value = ("enlarge", enlarge) if enlarge > 1 else (name, sizes[name])
            raise ConfigError(key, value, problem, f"write a smaller one: at most {_MOST_SIDE} pixels") from error
        if odd := next((name for name, side in sizes.items() if side * enlarge % 2), None):
            problem = f"{ending} holds even sizes only, not {height * enlarge}x{width * enlarge} pixels"
            cure = f"write enlarge={enlarge + 1}, an even {odd}, or a file .png or .gif"
            raise ConfigError(odd, sizes[odd], problem, cure) from error
        problem = f"{ending} cannot hold {rate} frames per second of {height * enlarge}x{width * enlarge} pixels"
        raise ConfigError("fps", rate, problem, "write a lower fps") from error


def _in_256_colours(picture: numpy.ndarray) -> av.VideoFrame:
    """Convert RGB [H W 3] to its own best palette."""
    quantized = Image.fromarray(picture).quantize(256)
    colours = numpy.array(quantized.getpalette("RGB"), numpy.uint8).reshape(-1, 3)
    palette = numpy.full((256, 4), 255, numpy.uint8)  # alpha, red, green, blue
    palette[: len(colours), 1:] = colours
    return av.VideoFrame.from_ndarray((numpy.asarray(quantized), palette), format="pal8")
