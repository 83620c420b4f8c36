"""Write videos: an mp4 that plays however it ends, or raw frames into a pipe."""

import os
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Protocol

import av
import numpy

from models.atomic_files import atomic_file
from models.video_stream import set_picture, to_bt709, write_pictures

H264_QUALITY = {"tune": "zerolatency", "crf": "18", "preset": "veryfast"}
_HEADERS_BYTES = 1 << 16
"""More than all of a fragment but its picture."""


class VideoWriter(Protocol):
    """Takes the frames of one video."""

    name: str
    """Its name in messages."""
    frames: int
    """Frames written so far."""

    def write(self, video: numpy.ndarray) -> None:
        """Write the next frames, uint8 [T H W 3]. Raises OSError if the disk is full."""
        ...

    def close(self) -> None:
        """Finish after the last frame."""
        ...


class Mp4File:
    """Writes H.264 in fragments of one frame. A killed process leaves all frames but the newest, in a file that plays.

    Without B-frames and look-ahead the file grows as frames come, and its first part does not depend on later frames.
    Fragments of a whole block would lose that block.
    """

    def __init__(self, path: Path, rate: Fraction | int, height: int, width: int):
        """Open the encoder for `rate` frames per second; the file appears with its first frame."""
        self.name, self.file = str(path), _FragmentFile(path)
        self.lock = Lock()  # a second Ctrl-C closes the file while another thread writes, which PyAV would not survive
        layout = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
        # More than any fragment, so that each reaches the disk in one write: one of two could be torn by a kill.
        buffer_size = 3 * height * width + _HEADERS_BYTES
        self.container = av.open(self.file, "w", format="mp4", options=layout, buffer_size=buffer_size)
        self.stream = self.container.add_stream("libx264", rate=rate, options=H264_QUALITY)
        set_picture(self.stream.codec_context, height, width)
        self.stream.codec_context.gop_size = round(rate)  # a player can start anywhere within a second

    @property
    def frames(self) -> int:
        """Count the frames on the disk: until the file is closed, all but the newest."""
        return self.file.fragments

    def write(self, video: numpy.ndarray) -> None:
        """Write the next frames, uint8 [T H W 3]. Raises OSError if the disk is full, or `path` exists."""
        for picture in video:
            with self.lock:
                write_pictures(self.container, self.stream, [to_bt709(picture)])

    def close(self) -> None:
        """Write the newest frame and the index. Raises OSError if the disk is full."""
        with self.lock:
            try:
                write_pictures(self.container, self.stream, [None])
                self.container.close()
            finally:
                self.file.close()


class _FragmentFile:
    """Writes each fragment whole or not at all; after the first that does not fit, none.

    The file appears with its header and first frame: there is no file without a frame.
    """

    def __init__(self, path: Path):
        self.path, self.descriptor, self.header = path, None, b""
        self.fragments, self.size, self.full = 0, 0, False

    def write(self, piece: bytes) -> int:
        if self.full:  # fragments after a missing one would not play; the muxer still writes while it closes
            return len(piece)
        fragment = piece[4:8] == b"moof"
        try:
            if self.descriptor is not None:
                _write_all(self.descriptor, piece)
            elif fragment:
                with atomic_file(self.path) as partial:
                    self.descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
                    _write_all(self.descriptor, self.header + piece)
                    if self.path.exists():  # made since the command began, perhaps by the same command
                        raise FileExistsError(None, "it is there already", str(self.path))
            else:
                self.header += piece
        except BaseException:  # a full disk or a Ctrl-C, which both may leave a part of the piece
            self.full = True
            if self.fragments:
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(piece)
        self.fragments += fragment
        return len(piece)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class FramePipe:
    """Writes rgb24 frames, one after the other, for a player or an encoder that reads them."""

    def __init__(self, descriptor: int):
        self.descriptor, self.name, self.frames = descriptor, "the pipe", 0

    def write(self, video: numpy.ndarray) -> None:
        """Write the next frames, uint8 [T H W 3]. Raises BrokenPipeError if the reader has left."""
        for picture in video:
            _write_all(self.descriptor, picture.tobytes())
            self.frames += 1

    def close(self) -> None:
        """Leave the descriptor to the caller."""


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:  # pipes and full disks take a part
        rest = rest[os.write(descriptor, rest) :]
