"""Every kind of video file has the asked frames, colours, tags and rate, and is there from its first frame on."""

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from actors.generation.video_formats import VIDEO_ENDINGS, check_format, open_writer
from models.errors import ConfigError

COLOURS = numpy.array(
    [(230, 38, 31), (38, 204, 51), (38, 77, 242), (242, 217, 38), (230, 51, 217), (128, 128, 128)], numpy.uint8
)
FILES = [ending for ending in VIDEO_ENDINGS if ending != ".png"]


def flat(height: int, frames: int = 3, width: int = 96) -> numpy.ndarray:
    """[T H W 3]: a bar of each colour."""
    row = COLOURS.repeat(width // len(COLOURS), axis=0)
    return numpy.broadcast_to(row, (frames, height, width, 3)).copy()


def write(path: Path, video: numpy.ndarray, rate: Fraction = Fraction(16)) -> Path:
    writer = open_writer(path, rate, *video.shape[1:3])
    writer.write(video)
    writer.close()
    assert writer.frames == len(video)
    return path


def shown(frame: av.VideoFrame) -> numpy.ndarray:
    """A frame as a player shows it that goes by the tags."""
    if frame.format.name.startswith("yuv"):
        frame = frame.reformat(
            format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        )  # fmt: skip
    return frame.to_ndarray(format="rgb24").astype(int)


@pytest.mark.parametrize("height", [48, 720, 1088])
@pytest.mark.parametrize("ending", FILES)
def test_flat_colours_come_back_and_are_tagged_at_every_size(ending, height, tmp_path):
    video = flat(height)
    with av.open(str(write(tmp_path / f"x{ending}", video))) as film:
        context = film.streams.video[0].codec_context
        frames = list(film.decode(video=0))
        tags = (frames[0].colorspace, frames[0].color_primaries, frames[0].color_trc, frames[0].color_range)
        assert ending == ".gif" or tags == (1, 1, 1, 1), context.name
        assert len(frames) == len(video)
        middle = numpy.arange(6) * 16 + 8
        assert numpy.abs(shown(frames[-1])[:, middle] - video[-1][:, middle]).max() <= 4


@pytest.mark.parametrize("rate", ["16", "23.976", "30000/1001", "12.5"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_the_rate_is_exact(ending, rate, tmp_path):
    """Matroska counts milliseconds: exact within them."""
    rate = Fraction(rate)
    with av.open(str(write(tmp_path / f"x{ending}", flat(48, 10), rate))) as film:
        stream = film.streams.video[0]
        times = [float(frame.pts * stream.time_base) for frame in film.decode(stream)]
        if ending == ".mp4":
            assert stream.average_rate == rate
        assert numpy.abs(numpy.array(times) - numpy.arange(10) / float(rate)).max() < (
            1e-9 if ending == ".mp4" else 1e-3
        )


def test_a_gif_keeps_the_rate_on_average(tmp_path):
    with Image.open(
        write(tmp_path / "x.gif", numpy.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), numpy.uint8))
    ) as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
    assert len(durations) == 16 and abs(sum(durations) - 1000) <= 10 and set(durations) <= {60, 70}


def test_a_folder_of_pictures_has_every_pixel(tmp_path):
    video = numpy.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), numpy.uint8)
    write(tmp_path / "x.png", video)
    names = sorted(path.name for path in (tmp_path / "x.png").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    for name, picture in zip(names, video, strict=True):
        assert numpy.array_equal(numpy.asarray(Image.open(tmp_path / "x.png" / name)), picture)


@pytest.mark.parametrize("ending", VIDEO_ENDINGS)
def test_a_killed_process_leaves_all_frames_but_the_newest(ending, tmp_path):
    path, video = tmp_path / f"x{ending}", flat(48, 5)
    writer = open_writer(path, Fraction(16), 48, 96)
    assert not path.exists()
    for picture in video:
        writer.write(picture[None])
    if ending == ".png":
        assert len(list(path.iterdir())) == 5
        return
    left = shutil.copy(path, tmp_path / f"left{ending}")
    with av.open(str(left)) as film:
        assert len(list(film.decode(video=0))) >= 4
    writer.close()


@pytest.mark.parametrize("ending", FILES)
def test_the_same_frames_are_the_same_bytes(ending, tmp_path):
    video = flat(48, 5)
    first, second = (write(tmp_path / f"{name}{ending}", video).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("ending", VIDEO_ENDINGS)
def test_nothing_is_written_over_and_nothing_without_a_frame(ending, tmp_path):
    open_writer(tmp_path / f"none{ending}", Fraction(16), 48, 96).close()
    assert not list(tmp_path.iterdir())
    path = tmp_path / f"x{ending}"
    writer = open_writer(path, Fraction(16), 48, 96)
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        writer.write(flat(48))
    writer.close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "rate", "height", "width", "key"),
    [("x.mp4", 16, 15, 16, "height"), ("x.mp4", 16, 16, 24000, "width"), ("x.mp4", 2**31, 16, 16, "fps"),
     ("x.mkv", 16, 16, 15, "width"), ("x.webm", 16, 16, 70000, "width"), ("x.gif", 60, 16, 16, "fps")],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_known_before(name, rate, height, width, key):
    for ending in VIDEO_ENDINGS:
        check_format(Path(f"x{ending}"), Fraction(16), 16, 16)
    with pytest.raises(ConfigError) as error:
        check_format(Path(name), Fraction(rate), height, width)
    assert error.value.key == key


def test_the_factor_is_named_where_it_makes_a_side_too_long():
    with pytest.raises(ConfigError) as error:
        check_format(Path("x.mp4"), Fraction(16), 16, 16, enlarge=2000)
    assert (error.value.key, error.value.value) == ("enlarge", 2000)
    check_format(Path("x.mp4"), Fraction(16), 15, 15, enlarge=2)
