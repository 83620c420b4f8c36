"""A record keeps the keys of one video; what it was made with is compared before it is made again."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from actors.generation.generation_config import GenerationConfig
from actors.generation.planned_videos import plan_videos
from actors.generation.video_record import keys_of_video, read_record, recorded_keys, repeat_notes, write_record
from generate import read_generation
from models.errors import ConfigError

MACHINE = {"device": "cpu", "threads": 1}


def config(**keys) -> GenerationConfig:
    return GenerationConfig(**{"prompt": "a cat", "out": "x.mp4", "seconds": float("inf")} | keys)


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "x.mp4", config(seed=7), tmp_path / "w", "0123", MACHINE)
    return tmp_path / "x.json"


def test_a_record_holds_every_key_of_the_frames_and_none_of_places(record, tmp_path, monkeypatch):
    content = read_record(str(record))
    keys = content["keys"]
    assert content["checkpoint"] == str(tmp_path / "w") and content["versions"]["longtake"]
    assert keys["seed"] == 7 and keys["seconds"] == "inf" and keys["student.block_frames"] == 3
    assert not {"out", "device", "compile", "batch", "text_cache", "from_json"} & keys.keys()
    monkeypatch.chdir(tmp_path)
    assert keys_of_video(config(lora="a.safetensors"))["lora"] == str(tmp_path / "a.safetensors")


def test_given_keys_replace_recorded_ones_and_their_alternatives(record):
    assert recorded_keys(str(record), ["from_json", "out"])["prompt"] == "a cat"
    assert not {"prompt", "prompts", "prompt_schedule"} & recorded_keys(str(record), ["prompts"]).keys()
    assert not {"seed", "seeds"} & recorded_keys(str(record), ["seeds"]).keys()
    assert not [name for name in recorded_keys(str(record), ["preset"]) if name.startswith("student.")]
    assert not {"lora", "lora_strength", "lora_part", "lora_live"} & {*recorded_keys(str(record), ["lora"])} - {"lora"}
    assert "lora" in recorded_keys(str(record), ["lora_strength"])
    assert "recache" not in recorded_keys(str(record), ["prompt"])


def test_another_form_of_the_same_video_shares_its_record_and_a_video_of_other_keys_does_not(record, monkeypatch):
    monkeypatch.chdir(record.parent)
    again = config(seed=7, from_json=str(record), out="x.gif")
    assert [video.path.name for video in plan_videos(again)] == ["x.gif"]
    with pytest.raises(ConfigError) as error:
        plan_videos(config(seed=8, from_json=str(record), out="x.gif"))
    assert error.value.key == "out" and str(error.value.value).endswith("x.json")


def test_a_text_that_a_record_has_as_a_list_is_refused(record):
    content = json.loads(record.read_text())
    content["keys"]["prompt"] = ["a", "b"]
    record.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        read_generation([f"from={record}", "out=x.mp4"])
    assert error.value.key == "prompt"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys": []}',
        "[" * 100_000,
        '"x"',
        "null",
        '{"keys": {}, "weights": "", "machine": null, "versions": {}}',
    ],
)
def test_another_file_is_no_record(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        read_record(str(tmp_path / "x.json"))
    assert error.value.key == "from_json"


def test_other_weights_are_refused_unless_another_checkpoint_is_given(record):
    again = config(seed=7, from_json=str(record))
    assert repeat_notes(again, "0123", MACHINE) == []
    with pytest.raises(ConfigError) as error:
        repeat_notes(again, "0124", MACHINE)
    assert error.value.key == "from_json"
    assert repeat_notes(config(from_json=str(record), checkpoint="other"), "0124", MACHINE) == []


def test_another_file_of_a_lora_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "b/adapter_model.safetensors", "b/adapter_config.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    loras = config(lora="[a.safetensors, b]")
    write_record(tmp_path / "x.mp4", loras, tmp_path / "w", "0123", MACHINE)
    again = config(**{"lora": read_record("x.json")["keys"]["lora"], "from_json": "x.json"})
    assert [path for path, _ in again.chosen_loras()] == [tmp_path / "a.safetensors", tmp_path / "b"]
    assert repeat_notes(again, "0123", MACHINE) == []
    Path("b/adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError) as error:
        repeat_notes(again, "0123", MACHINE)
    assert error.value.key == "from_json"
    Path("c.safetensors").write_text("c")
    assert repeat_notes(config(lora="c.safetensors", from_json="x.json"), "0123", MACHINE) == []


def test_repositories_of_the_hub_stay_as_typed_and_another_snapshot_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    names, root = ["hf://owner/name/a.safetensors", "b.safetensors"], tmp_path / "hub/models--owner--name"
    Path("b.safetensors").write_text("b")
    for commit in ("a" * 40, "b" * 40):
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs/main").write_text(commit)
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "snapshots" / commit / "a.safetensors").write_text("a")
        again = config(checkpoint="owner/name", lora=f"[{','.join(names)}]", from_json="x.json")
        if commit == "a" * 40:
            write_record(tmp_path / "x.mp4", again, tmp_path / "w", "0123", MACHINE)
            assert repeat_notes(again, "0123", MACHINE) == []
    record = read_record("x.json")
    assert record["keys"]["checkpoint"] == "owner/name"
    assert record["keys"]["lora"] == f"[{names[0]},{tmp_path}/b.safetensors]"
    assert record["snapshots"] == {"owner/name": "a" * 40, names[0]: "a" * 40}
    assert len(repeat_notes(again, "0123", MACHINE)) == 2


def test_another_start_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("a")
    write_record(tmp_path / "x.mp4", config(image=str(tmp_path / "a.png")), tmp_path / "w", "0123", MACHINE)
    again = config(image=str(tmp_path / "a.png"), from_json=str(tmp_path / "x.json"))
    assert repeat_notes(again, "0123", MACHINE) == []
    (tmp_path / "a.png").write_text("b")
    with pytest.raises(ConfigError) as error:
        repeat_notes(again, "0123", MACHINE)
    assert error.value.key == "from_json" and "a.png" in error.value.problem


def test_what_may_change_roundings_is_noted(record):
    content = json.loads(record.read_text())
    content["versions"]["torch"] = "1.0"
    record.write_text(json.dumps(content))
    notes = repeat_notes(config(from_json=str(record)), "0123", MACHINE | {"threads": 8})
    assert len(notes) == 2 and any("threads=1" in note for note in notes) and any("torch=1.0" in note for note in notes)
