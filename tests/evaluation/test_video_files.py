"""The prompt of a video stands in NAME.txt, read alike by every command; files of other kinds are named."""

import numpy
import pytest
import torch
from safetensors.torch import save_file

from evaluation.video_files import prompts_beside, read_videos
from evaluation.video_tasks import list_videos
from models.errors import ConfigError
from models.video_stream import UnreadableVideo, probe, stream_frames
from tests.evaluation.test_reward_trial import film
from tests.fakes.films import write_film

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 146912345\n"


def prompts_of(path, out) -> list[str | None]:
    """The prompts as rewards.try and as evaluate.py read them, which are the same."""
    tasks, _ = list_videos({"m": str(path.parent)}, None, out, 8.0)
    assert [task.prompt or "" for task in tasks] == [video.prompt for video in read_videos(path)]
    return [task.prompt for task in tasks]


@pytest.fixture(params=["x.mp4", "x.safetensors"])
def video(request, tmp_path):
    """A film, or two videos in one tensor."""
    path = tmp_path / request.param
    if path.suffix == ".mp4":
        film(path, torch.rand(2, 3, 16, 16))
    else:
        save_file({"video": torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8)}, path)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_a_film_has_the_whole_text_and_a_tensor_a_line_each(video, encoding, tmp_path):
    video.with_suffix(".txt").write_bytes("a  L\u00f6we\r\nruns\r\n\r\n".encode(encoding))
    right = ["a L\u00f6we runs"] if video.suffix == ".mp4" else ["a L\u00f6we", "runs"]
    assert prompts_of(video, tmp_path / "out") == right


def test_a_video_without_a_text_has_no_prompt(video, tmp_path):
    assert {*prompts_of(video, tmp_path / "out")} == {None}


@pytest.mark.parametrize(
    "content", [POINTER, "<!-- saved -->\n<html>", "Entry not found", '{"prompt": "a"}\n{}', "- prompt: a\n- prompt: b"]
)
def test_what_is_no_prompt_is_refused_by_both_commands(content, video, tmp_path):
    text = video.with_suffix(".txt")
    text.write_text(content)
    for read in (lambda: list_videos({"m": str(tmp_path)}, None, tmp_path / "out", 8.0), lambda: [*read_videos(video)]):
        with pytest.raises(ConfigError) as error:
            read()
        assert (error.value.key, error.value.value) == ("videos", text)
    assert list_videos({"m": str(tmp_path)}, ["a", "b"][: 1 + (video.suffix != ".mp4")], tmp_path / "out", 8.0)[0]


@pytest.mark.parametrize("lines", ["a", "a\nb\nc"])
def test_a_tensor_has_as_many_lines_as_videos(lines, tmp_path):
    (tmp_path / "x.txt").write_text(lines)
    with pytest.raises(ConfigError) as error:
        prompts_beside(tmp_path / "x.safetensors", 2)
    assert (error.value.key, error.value.value) == ("videos", tmp_path / "x.txt")


def test_a_pointer_in_place_of_a_video_is_named(video, tmp_path):
    video.write_text(POINTER)
    with pytest.raises(ConfigError) as error:
        [*read_videos(video)]
    assert error.value.key == "videos" and "Git LFS" in error.value.problem
    if video.suffix == ".mp4":
        for read in (probe, lambda path: next(stream_frames(path))):
            with pytest.raises(UnreadableVideo, match="Git LFS"):
                read(video)
    else:
        with pytest.raises(ConfigError) as error:
            list_videos({"m": str(tmp_path)}, None, tmp_path / "out", 8.0)
        assert error.value.key == "videos" and "Git LFS" in error.value.problem


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_film_of_high_dynamic_range_is_not_judged_as_another(transfer, tmp_path):
    film = write_film(tmp_path / "x.mp4", [numpy.zeros((16, 16, 3), numpy.uint8)], transfer=transfer)
    with pytest.raises(UnreadableVideo, match="dynamic range"):
        next(stream_frames(film))
