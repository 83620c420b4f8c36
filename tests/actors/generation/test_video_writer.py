"""What lies in the file, write by write."""

import os
from pathlib import Path

import av
import numpy
import pytest

from actors.generation.video_writer import Mp4File


def noise(frames: int, height: int, width: int) -> numpy.ndarray:
    """What H.264 cannot make small."""
    return numpy.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=numpy.uint8)


def decoded(path: Path) -> list[numpy.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_a_file_appears_with_its_first_frame_and_grows_by_whole_fragments(tmp_path, monkeypatch):
    """Cut behind any write, it is a video with one frame more: each fragment is one write, however large."""
    path, written, write = tmp_path / "x.mp4", [], os.write

    def seen(descriptor: int, content: bytes) -> int:
        written.append(write(descriptor, content))
        return written[-1]

    video = noise(3, 544, 960)
    file = Mp4File(path, 16, *video.shape[1:3])
    monkeypatch.setattr(os, "write", seen)
    for number, picture in enumerate(video):
        file.write(picture[None])
        assert path.exists() == (number > 0) and file.frames == number  # the newest waits for its duration
    file.close()
    whole, content = decoded(path), path.read_bytes()
    assert file.frames == len(whole) == 3 and max(written) > 1 << 18
    for count in range(1, len(written)):
        path.write_bytes(content[: sum(written[:count])])
        part = decoded(path)
        assert len(part) == min(count, 3)
        assert all(numpy.array_equal(one, same) for one, same in zip(part, whole, strict=False))


def test_a_file_that_was_made_meanwhile_is_not_written_over(tmp_path):
    path = tmp_path / "x.mp4"
    file = Mp4File(path, 16, 16, 16)
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        file.write(noise(2, 16, 16))
    file.close()
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path] and not file.frames


def test_a_file_without_frames_is_none(tmp_path):
    Mp4File(tmp_path / "x.mp4", 16, 16, 16).close()
    assert not list(tmp_path.iterdir())
