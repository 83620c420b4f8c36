"""A job is checked before it starts, and says what its keys may not be meant to say."""

import pytest
from PIL import Image

from actors.generation import job
from actors.generation.generation_config import GenerationConfig
from actors.generation.job import open_job
from models.errors import ConfigError
from models.wan.tiny_decoder import TinyDecoderCodec
from models.worlds.tiny_prompts import PROMPTS


def config(tmp_path, **keys) -> GenerationConfig:
    return GenerationConfig(
        **{"prompt": PROMPTS[0], "out": f"{tmp_path}/x.mp4", "device": "cpu", "seconds": 1.0} | keys
    )


@pytest.mark.parametrize(
    ("keys", "noted"),
    [
        ({}, None),
        ({"fps": "24"}, "1.5 times"),
        ({"fps": "8"}, "0.5 times"),
        ({"prompt": None, "prompt_schedule": [[0, PROMPTS[0]], [2, PROMPTS[1]]]}, "2 s"),
        ({"height": 12, "width": 24}, "2 times the tokens"),
    ],
)
def test_keys_that_may_be_meant_otherwise_are_noted(keys, noted, tmp_path, capsys):
    open_job(config(tmp_path, **keys))
    said = capsys.readouterr().err
    assert said.count("note: ") == (noted is not None) and (noted or "") in said


def test_swapped_sides_are_noted(tmp_path, capsys):
    keys = config(tmp_path, height=24, width=12)
    keys.student.width = 24
    open_job(keys)
    assert "note: height=24 and width=12: " in capsys.readouterr().err


def test_a_decoder_alone_re_encodes_no_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "open_codec", lambda *_: object.__new__(TinyDecoderCodec))
    with pytest.raises(ConfigError) as error:
        open_job(config(tmp_path, extend="overlap"))
    assert error.value.key == "vae"


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 146912345\n",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\x89PNG\r\n\x1a\n",
        "ein L\u00f6we\n".encode("latin-1"),
    ],
)
def test_no_video_is_planned_for_what_is_no_prompt_file(content, tmp_path):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        open_job(config(tmp_path, prompt=None, prompts=f"{tmp_path}/p.txt"))
    assert error.value.key == "prompts"


def test_of_many_notes_on_starts_the_first_ten_are_printed(tmp_path, capsys):
    (tmp_path / "starts").mkdir()
    for number in range(13):
        Image.new("RGB", (1, 1)).save(tmp_path / "starts" / f"{number:02d}.png")
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS[:13]))
    keys = {"prompts": f"{tmp_path}/p.txt", "images": f"{tmp_path}/starts", "out": f"{tmp_path}/videos"}
    open_job(config(tmp_path, prompt=None, **keys))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11 and "12.0 times" in said[9] and said[10].startswith("note: 3 ")


def test_scenes_without_times_need_an_end(tmp_path):
    (tmp_path / "p.json").write_text('[{"prompts": ["a", "b"]}]')
    with pytest.raises(ConfigError) as error:
        open_job(config(tmp_path, prompt=None, prompts=f"{tmp_path}/p.json", seconds=float("inf")))
    assert error.value.key == "prompts"
