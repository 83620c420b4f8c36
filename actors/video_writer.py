"""Videos on their way out: an mp4 that plays however it ends, and raw frames for a pipe."""

import os
from pathlib import Path
from typing import Protocol

import av
import numpy


class VideoWriter(Protocol):
    """Where the frames of one video go."""

    name: str
    """What a person calls it."""
    frames: int
    """Frames taken so far."""

    def write(self, video: numpy.ndarray) -> None:
        """The next frames, uint8 [T H W 3]. Raises OSError where there is no room for them."""
        ...

    def close(self) -> None:
        """After the last frame."""
        ...


class Mp4File:
    """H.264 in fragments of one frame: a killed process leaves all frames but the newest, and any player plays them.

    Nothing is held back (no B-frames, no look-ahead), so the file grows as frames come and its first part does not
    depend on what follows. Fragments of a whole block would lose that block.
    """

    def __init__(self, path: Path, fps: int, height: int, width: int):
        """Raises OSError where `path` exists or cannot be written."""
        self.name, self.frames = str(path), 0
        self.file = open(path, "xb", buffering=0)  # noqa: SIM115
        layout = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
        self.container = av.open(self.file, "w", format="mp4", options=layout)
        quality = {"tune": "zerolatency", "crf": "18", "preset": "veryfast"}
        self.stream = self.container.add_stream("libx264", rate=fps, options=quality)
        self.stream.height, self.stream.width, self.stream.pix_fmt = height, width, "yuv420p"
        self.stream.codec_context.thread_count = 1  # more would cut frames into slices: other bytes on other machines
        self.stream.codec_context.gop_size = fps  # a player can start anywhere within a second

    def write(self, video: numpy.ndarray) -> None:
        """The next frames, uint8 [T H W 3]. Raises OSError where there is no room for them."""
        for picture in video:
            for packet in self.stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                self.container.mux(packet)
            self.frames += 1

    def close(self) -> None:
        """Write the newest frame and the index. Raises OSError where there is no room for them."""
        try:
            for packet in self.stream.encode(None):
                self.container.mux(packet)
            self.container.close()
        finally:
            self.file.close()


class FramePipe:
    """rgb24 frames, one after the other and nothing else, for a player or an encoder that reads them."""

    def __init__(self, descriptor: int):
        self.descriptor, self.name, self.frames = descriptor, "the pipe", 0

    def write(self, video: numpy.ndarray) -> None:
        """The next frames, uint8 [T H W 3]. Raises BrokenPipeError where nobody reads any more."""
        for picture in video:
            rest = memoryview(picture.tobytes())
            while rest:  # a pipe takes what there is room for
                rest = rest[os.write(self.descriptor, rest) :]
            self.frames += 1

    def close(self) -> None:
        """The descriptor is the caller's."""
