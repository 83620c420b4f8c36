"""Measure what judging a film costs: seconds per minute of 480p video, and the peak memory, at several lengths.

python -m benchmarks.evaluation_speed [minutes=[1,10]]

The film is a moving texture at 480 x 832 and 24 frames per second, written by the benchmark: at most a minute is
encoded, longer films repeat its packets. Cost and memory must not depend on the length.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy
import torch

from benchmarks.command import run
from benchmarks.line import print_line
from evaluation.video_evaluation import evaluate_video
from evaluation.video_tasks import VideoTask
from models.keys import key

HEIGHT, WIDTH, FPS = 480, 832, 24
BAR_S, BAR_GB = 18.0, 1.5
"""Seconds per minute of video (3 minutes for 10, on one of two cores), and gigabytes."""


@dataclass(kw_only=True)
class SpeedOptions:
    """Say how long the films are."""

    minutes: list[float] = key([1.0, 10.0], "lengths of the films, in minutes", gt=0, le=600)


def main(options: SpeedOptions) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            minute = write_texture(Path(folder, "minute.mp4"), round(60 * min(minutes, 1.0) * FPS))
            film = repeat_film(minute, Path(folder, f"{minutes:g}.mp4"), round(60 * minutes * FPS))
            began, began_cpu = time.monotonic(), time.process_time()
            evaluate_video(VideoTask("film", film.stem, film, None, Path(folder, "rows")))
            wall, cpu = time.monotonic() - began, time.process_time() - began_cpu
            shown = {"minutes": minutes, "height": HEIGHT, "width": WIDTH, "fps": FPS}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print_line("evaluation.seconds_per_minute", [wall / minutes], "s", "one process", shown, BAR_S,
                       cpu_s=round(cpu / minutes, 2))  # fmt: skip
            print_line("evaluation.peak_memory", [peak], "GB", "one process", shown, BAR_GB)


def write_texture(path: Path, frames: int) -> Path:
    """Write a film of a texture that moves slowly and lightens and darkens."""
    texture = numpy.random.default_rng(0).normal(127, 60, (HEIGHT // 8, WIDTH // 4, 3))
    wide = cv2.resize(texture.clip(0, 255).astype(numpy.uint8), (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "28"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(frames):
            first = (2 * number) % (3 * WIDTH)
            picture = numpy.ascontiguousarray(wide[:, first : first + WIDTH])
            light = 1 + 0.2 * numpy.sin(number / 200)
            film.mux(
                stream.encode(av.VideoFrame.from_ndarray(cv2.convertScaleAbs(picture, alpha=light), format="rgb24"))
            )
        film.mux(stream.encode(None))
    return path


def repeat_film(film: Path, path: Path, frames: int) -> Path:
    """Write a film of `frames` frames that repeats the packets of `film`, without encoding them again."""
    written = 0
    with av.open(str(film)) as source, av.open(str(path), "w") as longer:
        stream = source.streams.video[0]
        copy = longer.add_stream_from_template(stream)
        while written < frames:
            source.seek(0)
            first = written
            for packet in source.demux(stream):
                if packet.dts is None or written == frames:  # the demuxer ends with an empty packet
                    continue
                shift = round(first / FPS / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                longer.mux(packet)
                written += 1
    return path


if __name__ == "__main__":
    run(main, __doc__, SpeedOptions)
