"""Small films of known content, written by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy
from av.video.reformatter import ColorRange, Colorspace


def write_film(
    path: Path,
    pictures: Sequence[numpy.ndarray],
    fps: float | Fraction = 8,
    pixel_format: str = "yuv420p",
    full_range: bool = False,
    matrix: Colorspace | None = None,
    times: Sequence[float] | None = None,
    sound: bool = False,
    transfer: int | None = None,
) -> Path:
    """Write pictures [H W 3] uint8 as H.264, nearly without loss; `times` are seconds of a film of uneven rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        rate = Fraction(fps).limit_denominator(1001)
        stream = film.add_stream("libx264", rate=rate, options={"crf": "1", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000) if times is not None else 1 / rate
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        if full_range:
            stream.codec_context.color_range = ColorRange.JPEG
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        noise = film.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=matrix or Colorspace.ITU601,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
            )
            frame.time_base = stream.codec_context.time_base
            frame.pts = number if times is None else round(1000 * times[number])
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if noise is not None:
            samples = av.AudioFrame.from_ndarray(numpy.zeros((1, 1024), dtype=numpy.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 8000, 0
            film.mux(noise.encode(samples))
            film.mux(noise.encode(None))
    return path


def grey_ramp(frames: int, low: int, high: int, size: tuple[int, int] = (48, 64)) -> list[numpy.ndarray]:
    """Make pictures of one grey each, from `low` to `high`."""
    return [numpy.full((*size, 3), level, dtype=numpy.uint8) for level in numpy.linspace(low, high, frames).round()]


def moving_texture(frames: int, speed: float, size: tuple[int, int] = (96, 128), seed: int = 0) -> list[numpy.ndarray]:
    """Make pictures of a smooth random texture that moves `speed` pixels a frame to the right."""
    height, width = size
    draws = numpy.random.default_rng(seed)
    waves = [(draws.uniform(0.02, 0.25, 2), draws.uniform(0, 6.28), draws.uniform(10, 40, 3)) for _ in range(12)]
    rows, columns = numpy.mgrid[0:height, 0:width]
    pictures = []
    for number in range(frames):
        level = numpy.full((height, width, 3), 127.0)
        for (across, down), phase, weight in waves:
            level += numpy.sin(across * (columns - speed * number) + down * rows + phase)[..., None] * weight
        pictures.append(level.clip(0, 255).astype(numpy.uint8))
    return pictures
