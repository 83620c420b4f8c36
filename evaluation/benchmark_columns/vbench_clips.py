"""Cut a video into the clips of VBench-Long: at cuts between shots, then every two seconds."""

import shutil
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy
from av.video.reformatter import ColorRange, Colorspace
from scenedetect import ContentDetector, FrameTimecode

from evaluation.video_evaluation import open_video
from evaluation.video_tasks import VideoTask
from models.video_stream import Frame, UnreadableVideo

_THRESHOLD = 35.0
"""Change of colours, in units of 255, that VBench-Long takes for a cut."""
_WIDTH = 256
"""Columns of the frames that PySceneDetect sees by default."""
_THREADS = 4
"""Threads of an encoder: its output is the same on machines with any number of cores."""
LEAST_FRAMES = 4
"""Frames of the shortest clip: motion smoothness compares every second frame, and one clip without any stops VBench."""


def write_clips(task: VideoTask, folder: Path, clip_s: float) -> list[Path]:
    """Write the clips of a video to `folder`, all or none, or list those of an earlier call. Raises UnreadableVideo.

    The encoder's defaults are kept, as in VBench-Long: clips of other quality score otherwise.
    """
    if not folder.is_dir():
        info, frames = open_video(task)
        pieces = shot_spans(frames)
        spans = [span for shot in pieces for span in clip_spans(*shot, max(1, round(clip_s * info.fps)))]
        spans = [span for span in spans if span[1] - span[0] >= LEAST_FRAMES]
        if not spans:
            raise UnreadableVideo(f"{task.path.name} has fewer than {LEAST_FRAMES} frames in a shot")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _encode_spans(open_video(task)[1], spans, info.fps, partial)
        partial.replace(folder)
    return sorted(folder.glob("*.mp4"))


def shot_spans(frames: Iterable[Frame]) -> list[tuple[int, int]]:
    """Find the shots of a video as numbers of the first frame and of the one behind the last."""
    detector = ContentDetector(threshold=_THRESHOLD)
    starts, count = {0}, 0
    for count, frame in enumerate(frames, 1):
        height, width = frame.pixels.shape[:2]
        size = (min(width, _WIDTH), max(1, round(height * min(1.0, _WIDTH / width))))
        picture = cv2.resize(frame.pixels, size, interpolation=cv2.INTER_LINEAR)
        cuts = detector.process_frame(FrameTimecode(count - 1, 1.0), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        starts.update(cut.frame_num for cut in cuts)
    edges = [*sorted(starts), count]
    return list(pairwise(edges))


def clip_spans(start: int, end: int, length: int) -> list[tuple[int, int]]:
    """Divide the frames of a shot into clips of `length`; the last one begins early enough to be as long."""
    if end - start <= length:
        return [(start, end)]
    spans = [(first, first + length) for first in range(start, end - length + 1, length)]
    return spans if spans[-1][1] == end else [*spans, (end - length, end)]


def _encode_spans(frames: Iterable[Frame], spans: Sequence[tuple[int, int]], fps: float, folder: Path) -> None:
    """Write every span as NNNNN.mp4; only the clips that a frame belongs to are open, as an encoder takes 60 MB."""
    left = list(enumerate(spans))
    writing: dict[int, _ClipWriter] = {}
    try:
        for number, frame in enumerate(frames):
            while left and left[0][1][0] == number:
                clip, _ = left.pop(0)
                writing[clip] = _ClipWriter(folder / f"{clip:05d}.mp4", frame.pixels, fps)
            for clip in list(writing):
                writing[clip].add(frame.pixels)
                if spans[clip][1] == number + 1:
                    writing.pop(clip).close()
    finally:
        for writer in writing.values():
            writer.film.close()


class _ClipWriter:
    """Encodes frames as H.264; sizes are cut to even ones, which its colours need.

    Frames of a few macroblocks (48 x 32) are not encoded alike every time: x264 reads memory that it never wrote.
    """

    def __init__(self, path: Path, pixels: numpy.ndarray, fps: float):
        self.film = av.open(str(path), "w")
        self.stream = self.film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self.stream.codec_context.thread_count = _THREADS
        self.height, self.width = (max(2, side - side % 2) for side in pixels.shape[:2])
        self.stream.height, self.stream.width, self.stream.pix_fmt = self.height, self.width, "yuv420p"

    def add(self, pixels: numpy.ndarray) -> None:
        """Encode the next frame."""
        picture = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels[: self.height, : self.width]), "rgb24")
        ranges = {"src_color_range": ColorRange.JPEG, "dst_color_range": ColorRange.MPEG}
        self.film.mux(
            self.stream.encode(picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, **ranges))
        )

    def close(self) -> None:
        """Finish the file."""
        self.film.mux(self.stream.encode(None))
        self.film.close()
