"""Keys and rubrics that cannot work are named before anything is asked."""

import hashlib

import pytest

from evaluation.judging import rubric as rubric_module
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.rubric import SCORE, VERDICT, load_rubric
from models.errors import ConfigError

HEAD = "id: own\nversion: 2\nanswer: score\n\n"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"url": "localhost:8000"}, "judge.url"),
        ({"url": "http://user:secret@host/v1"}, "judge.url"),
        ({"url": "http://host/v1?key=secret"}, "judge.url"),
        ({"url": "http://host/v1#secret"}, "judge.url"),
        ({"most_dollars": 3.0}, "judge.most_dollars"),
        ({"most_dollars": 3.0, "dollars_per_million_input": 1.0}, "judge.most_dollars"),
        ({"repeats": 0}, "judge.repeats"),
        ({"frames_per_s": 0.0}, "judge.frames_per_s"),
        ({"timeout_s": float("inf")}, "judge.timeout_s"),
        ({"answer_format": "xml"}, "judge.answer_format"),
    ],
)
def test_a_wrong_key_is_named_in_one_line_without_a_secret(keys, key):
    with pytest.raises(ConfigError) as caught:
        JudgeConfig(**keys)
    assert caught.value.key == key and "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_default_is_no_judge_at_temperature_0():
    config = JudgeConfig()
    assert (config.url, config.temperature, config.plan.frames_per_s, config.plan.most_frames) == (None, 0, 1, 100)


@pytest.mark.parametrize(("name", "answer"), [("exposure_stability", SCORE), ("exposure_pair", VERDICT)])
def test_shipped_rubrics_have_id_version_and_the_digest_of_their_file(name, answer):
    rubric = load_rubric(name, answer, "judge.rubric")
    content = rubric_module._FOLDER.joinpath(f"{name}.txt").read_bytes()
    assert rubric.id == name and rubric.version.isdigit() and content.isascii()
    assert rubric.digest == hashlib.sha256(content).hexdigest() and f'"{answer}"' in rubric.text


def test_an_own_rubric_is_read_from_its_path_and_every_byte_of_it_counts(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(HEAD + "Give a score.\n")
    one = load_rubric(str(path), SCORE, "judge.rubric")
    path.write_text(HEAD + "Give a score!\n")
    other = load_rubric(str(path), SCORE, "judge.rubric")
    assert (one.id, one.version, one.text) == ("own", "2", "Give a score.") and one.digest != other.digest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Give a score.",
        HEAD.encode(),
        b"id: own\n\ntext",
        b"\xff",
        None,
        b"id: own\nversion:\nanswer: score\n\ntext",
        HEAD.replace("score", "verdict").encode() + b"x",
    ],
)
def test_a_file_that_is_no_rubric_is_named(tmp_path, content):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_rubric(str(path), SCORE, "judge.rubric")
    assert caught.value.key == "judge.rubric"


@pytest.mark.parametrize("name", ["", "exposure", "../rubric", "exposure_pair", "."])
def test_a_name_that_no_rubric_of_scores_has_is_named(name):
    with pytest.raises(ConfigError) as caught:
        load_rubric(name, SCORE, "judge.rubric")
    assert caught.value.key == "judge.rubric"
