"""Other ways past one horizon, through generate.py."""

import json

import numpy
import torch
from safetensors.torch import load_file

from models.checkpoints.weight_names import to_original
from models.worlds.world_config import SHIPPED_STUDENT
from tests.fakes.commands import run_script
from tests.fakes.generating import PROMPT, frames_of


def test_a_file_of_causvid_makes_a_long_video_by_overlaps_and_again_from_its_record(tmp_path):
    network = {f"model.{to_original(name)}": tensor for name, tensor in load_file(SHIPPED_STUDENT).items()}
    torch.save({"generator": network, "critic": {"model.head.head.bias": torch.ones(3)}}, tmp_path / "model.pt")
    common = (f"prompt={PROMPT}", "seconds=1.5", "extend=overlap", "overlap=6", "enlarge=4")
    for name, more in (("a", ()), ("b", (f"checkpoint={tmp_path}/model.pt",))):
        assert run_script("generate.py", *common, *more, f"out={tmp_path}/{name}.mkv") == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert len(frames_of(tmp_path / "a.mkv")) == 24
    assert run_script("generate.py", f"from={tmp_path}/a.json", f"out={tmp_path}/c.mkv") == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "c.mkv").read_bytes()
    keys = json.loads((tmp_path / "a.json").read_text())["keys"]
    assert (keys["extend"], keys["overlap"]) == ("overlap", 6)
    assert run_script("generate.py", f"from={tmp_path}/a.json", "extend=rolling", f"out={tmp_path}/d.mkv") == 0
    assert (tmp_path / "a.mkv").read_bytes() != (tmp_path / "d.mkv").read_bytes()


def test_a_staggered_window_is_another_video_and_block_by_block_the_usual_one(tmp_path):
    common = (f"prompt={PROMPT}", "seconds=1", "enlarge=4")
    assert run_script("generate.py", *common, f"out={tmp_path}/a.mkv") == 0
    for stagger in (1, 4):
        more = ("sampler=staggered", f"stagger={stagger}")
        assert run_script("generate.py", *common, *more, f"out={tmp_path}/{stagger}.mkv") == 0
    plain, another, same = (numpy.stack(frames_of(tmp_path / f"{name}.mkv")).astype(int) for name in ("a", "1", "4"))
    assert plain.shape == another.shape and numpy.abs(plain - same).max() <= 3 < numpy.abs(plain - another).max()
    more = ("sampler=blocks", f"out={tmp_path}/b.mkv")
    assert run_script("generate.py", f"from={tmp_path}/1.json", *more) == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
