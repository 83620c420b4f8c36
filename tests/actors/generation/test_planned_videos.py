"""Every video is planned as its files say, or refused by its key before anything is made."""

import json

import pytest
from PIL import Image

from actors.generation.generation_config import GenerationConfig
from actors.generation.planned_videos import plan_videos
from models.errors import ConfigError


def planned(tmp_path, **keys):
    return plan_videos(GenerationConfig(**{"prompt": "a cat", "out": f"{tmp_path}/x.mp4"} | keys))


@pytest.mark.parametrize("out", ["runs.v2/", "x.mp4/", "plain"])
def test_a_slash_at_the_end_names_a_folder(out, tmp_path):
    (video,) = planned(tmp_path, out=f"{tmp_path}/{out}")
    assert video.path == tmp_path / out / "0000_a_cat_0.mp4"


@pytest.mark.parametrize(
    "name", ["o{index:>99999999999}.mp4", "o{index:{seed}}.mp4", "o{prompt:.9999}.mp4", "o{index.real}.mp4", "o{0}.mp4",
             "o{.mp4", "o{prompt:d}.mp4", "o{word}.mp4", "runs.v2"],
)  # fmt: skip
def test_a_pattern_or_ending_that_names_no_file_is_refused(name, tmp_path):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, out=f"{tmp_path}/{name}")
    assert error.value.key == "out"


def test_a_pattern_of_few_digits_names_the_files(tmp_path):
    videos = planned(tmp_path, out=f"{tmp_path}/{{index:03d}}_{{prompt:.3}}_{{seed:>4}}.mkv", seeds=[7, 8])
    assert [video.path.name for video in videos] == ["000_a_c_   7.mkv", "001_a_c_   8.mkv"]


def test_one_entry_of_several_scenes_is_noted_and_a_list_is_not(tmp_path, capsys):
    file = tmp_path / "p.json"
    keys = {"prompt": None, "prompts": str(file), "out": f"{tmp_path}/videos"}
    for content, videos, notes in ({"prompts": ["a", "b"]}, 1, 1), (["a", "b"], 2, 0):
        file.write_text(json.dumps(content))
        assert len(planned(tmp_path, **keys)) == videos and capsys.readouterr().err.count("note: ") == notes


def test_a_column_of_pictures_instead_of_names_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    pictures = [{"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}]
    parquet.write_table(pyarrow.table({"prompt": ["a cat"], "image": pictures}), tmp_path / "p.parquet")
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, prompt=None, prompts=f"{tmp_path}/p.parquet")
    assert error.value.key == "prompts" and "image" in error.value.problem


def test_columns_that_are_not_read_are_noted_once(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": 1, "prompt": "a cat", "steps": 4, "guidance_scale": 5}))
    planned(tmp_path, prompt=None, prompts=f"{tmp_path}/p.jsonl", out=f"{tmp_path}/videos")
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and "steps, guidance_scale" in said
