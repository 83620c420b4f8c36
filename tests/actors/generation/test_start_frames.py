"""A clip gives its last frames at the video's rate, in whole blocks; a folder gives one start for each prompt."""

from fractions import Fraction
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actors.generation import start_frames
from actors.generation.generation_config import GenerationConfig
from actors.generation.start_frames import Start, find_starts, start_reader
from actors.generation.video_formats import open_writer
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.video_stream import Frame
from models.worlds.video_codec import TinyCodec
from tests.fakes.films import write_film

SHAPE = StudentConfig()
"""Blocks of 3 frames, and a memory of 9."""


def config(**keys) -> GenerationConfig:
    return GenerationConfig(**{"prompt": "a cat", "out": "x.mp4"} | keys)


def clip(path: Path, frames: int, rate: str = "16") -> Path:
    """Frame i has the grey 10 i."""
    video = numpy.arange(frames, dtype=numpy.uint8).reshape(-1, 1, 1, 1).repeat(48, 1).repeat(48, 2).repeat(3, 3) * 10
    writer = open_writer(path, Fraction(rate), 48, 48)
    writer.write(video)
    writer.close()
    return path


def greys(path: Path, key: str = "video", **keys) -> list[int]:
    """Tens of grey of the frames that a video continues."""
    frames, _ = start_reader(config(**keys), SHAPE, TinyCodec()).read(Start(path, key, is_clip=True))
    assert frames.shape[1:] == (3, 12, 12) and frames.min() >= 0 and frames.max() <= 1
    return [round(float(frame.mean()) * 25.5) for frame in frames]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".gif"])
def test_the_last_frames_that_the_student_remembers_are_taken(ending, tmp_path):
    assert greys(clip(tmp_path / f"x{ending}", 14)) == [5, 6, 7, 8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize(("frames", "taken"), [(1, 1), (2, 2), (3, 3), (5, 3), (8, 6)])
def test_a_short_clip_gives_whole_blocks_or_all_of_it(frames, taken, tmp_path):
    assert greys(clip(tmp_path / "x.mkv", frames)) == list(range(frames - taken, frames))


@pytest.mark.parametrize(("rate", "taken"), [("32", [4, 6, 8, 10, 12, 14, 16, 18, 20]), ("8", [8, 8, 9, 9, 10, 10])])
def test_a_clip_of_another_rate_is_read_at_the_videos(rate, taken, tmp_path):
    found = greys(clip(tmp_path / "x.mp4", 21 if rate == "32" else 11, rate))
    assert found[-1] == taken[-1] and numpy.abs(numpy.array(found[-len(taken) :]) - taken).max() <= 1
    _, notes = start_reader(config(), SHAPE, TinyCodec()).read(Start(tmp_path / "x.mp4", "video", is_clip=True))
    assert any(rate in note and "16" in note for note in notes)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid", b"a cat", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_clip_is_refused(content, tmp_path):
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        greys(tmp_path / "x.mp4")
    assert (error.value.key, error.value.value) == ("video", tmp_path / "x.mp4")


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_clip_of_high_dynamic_range_is_refused(transfer, tmp_path):
    write_film(tmp_path / "x.mp4", [numpy.zeros((16, 16, 3), numpy.uint8)], transfer=transfer)
    with pytest.raises(ConfigError) as error:
        greys(tmp_path / "x.mp4")
    assert error.value.key == "video" and "dynamic range" in error.value.problem


def test_a_student_without_memory_continues_nothing(tmp_path):
    shape = StudentConfig(attention_frames=3)
    with pytest.raises(ConfigError) as error:
        start_reader(config(), shape, TinyCodec()).read(Start(clip(tmp_path / "x.mp4", 5), "video", is_clip=True))
    assert error.value.key == "video"


def test_a_folder_is_matched_by_name_or_by_order(tmp_path):
    for name in ("b_cat.png", "a dog.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    clip(tmp_path / "c.mp4", 2)
    keys = config(images=str(tmp_path))
    named = find_starts(keys, ["B cat", "a dog"], [None])
    assert [start.path.name for start in named] == ["b_cat.png", "a dog.png"]
    ordered = find_starts(keys, ["x", "y", "z"], [None])
    assert [(start.path.name, start.is_clip) for start in ordered] == [
        ("a dog.png", False), ("b_cat.png", False), ("c.mp4", True)
    ]  # fmt: skip
    with pytest.raises(ConfigError) as error:
        find_starts(keys, ["x", "y"], [None])
    assert error.value.key == "images" and "3 files for 2 prompts" in error.value.problem


def test_records_beside_clips_are_no_starts(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        clip(tmp_path / name, 2).with_suffix(".json").write_text("{}")
    starts = find_starts(config(images=str(tmp_path)), ["x", "y"], [None])
    assert [start.path.name for start in starts] == ["a.mp4", "b.mp4"] and capsys.readouterr().err.count("note: ") == 1
    (tmp_path / "b.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid")
    assert len(find_starts(config(images=str(tmp_path)), ["x", "y"], [None])) == 2, "a clip by its ending"


@pytest.mark.parametrize(
    ("names", "prompts"), [(("a cat.png", "a_cat.png"), ["a cat"]), (("a.png", "x.png"), ["x", "y"])]
)
def test_names_that_contradict_are_refused(names, prompts, tmp_path):
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(ConfigError) as error:
        find_starts(config(images=str(tmp_path)), prompts, [None])
    assert error.value.key == "images" and names[-1] in error.value.problem


def test_a_picture_as_a_clip_points_to_image(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError) as error:
        find_starts(config(video=str(tmp_path / "x.png")), ["x"], [None])
    assert error.value.key == "video" and "image=" in error.value.fix


def test_a_column_of_the_prompt_file_comes_before_the_key(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    keys = config(prompt=None, prompts=str(tmp_path / "p.jsonl"), image=str(tmp_path / "a.png"))
    starts = find_starts(keys, ["x", "y"], ["b.png", None])
    assert [(start.key, start.path.name) for start in starts] == [("prompts", "b.png"), ("image", "a.png")]


@pytest.mark.parametrize("key", ["image", "video", "images"])
def test_a_missing_start_is_named(key, tmp_path):
    with pytest.raises(ConfigError) as error:
        find_starts(config(**{key: str(tmp_path / "none")}), ["x"], [None])
    assert error.value.key == key


def test_a_clip_as_a_picture_points_to_video(tmp_path):
    path = clip(tmp_path / "x.mp4", 2)
    with pytest.raises(ConfigError) as error:
        find_starts(config(image=str(path)), ["x"], [None])
    assert error.value.key == "image" and "video=" in error.value.fix


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("clips")
    return [clip(folder / f"x{ending}", 4).read_bytes() for ending in (".mp4", ".mkv", ".gif")]


@settings(max_examples=40)
@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=9))
def test_a_damaged_clip_is_read_or_refused(clips, tmp_path_factory, number, changes):
    damaged = bytearray(clips[number])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        assert greys(path)
    except ConfigError as error:
        assert (error.key, error.value) == ("video", path)


def test_a_clip_whose_times_jump_back_gives_frames(tmp_path, monkeypatch):
    path = clip(tmp_path / "x.mp4", 4)
    frames = [Frame(time_s, numpy.zeros((48, 48, 3), numpy.uint8)) for time_s in (100.0, 0.0)]
    monkeypatch.setattr(start_frames, "stream_frames", lambda _: iter(frames))
    assert {*greys(path)} == {0}
