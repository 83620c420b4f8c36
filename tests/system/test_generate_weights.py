"""The files that generate.py makes its student from: a LoRA is what its matrices say, what does not fit is refused."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.formats import network_shapes
from models.checkpoints.weight_files import save_weights
from models.checkpoints.weight_names import to_original
from models.network_config import CONFIGS
from models.worlds.world_config import SHIPPED_STUDENT
from tests.fakes.commands import mistake, run_script
from tests.fakes.generating import PROMPT, frames_of
from tests.fakes.original_wan import CONFIG as SMALL
from tests.fakes.original_wan import save_twins

LAYERS = ("blocks.0.attn1.to_q", "blocks.2.attn2.to_out.0")


def lora(path: Path, layers: tuple[str, ...] = LAYERS, width: int = 96) -> Path:
    """A file of diffusers with matrices of rank 2, small enough that the student still makes videos."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(width, 2, generator=generator) / 10
    save_file(tensors, path)
    return path


def made(folder: Path, name: str, *arguments: str) -> list[bytes]:
    out = folder / f"{name}.mp4"
    assert run_script("generate.py", "preset=tiny", f"prompt={PROMPT}", "seconds=0.5", f"out={out}", *arguments) == 0
    return [frame.tobytes() for frame in frames_of(out)]


def test_a_lora_makes_the_video_of_the_student_that_it_is_added_to_by_hand(tmp_path):
    path = lora(tmp_path / "lora.safetensors")
    student, matrices = load_file(SHIPPED_STUDENT), load_file(path)
    for layer in LAYERS:
        down, up = (matrices[f"transformer.{layer}.lora_{side}.weight"] for side in "AB")
        student[f"{layer}.weight"] += 0.5 * up @ down
    save_weights(student, tmp_path / "added.safetensors", {})
    merged = made(tmp_path, "merged", f"lora={path}", "lora_strength=0.5")
    assert merged == made(tmp_path, "by_hand", f"checkpoint={tmp_path}/added.safetensors")
    plain = made(tmp_path, "plain")
    assert merged != plain
    assert plain == made(tmp_path, "none_of_it", f"lora={path}", "lora_strength=0")


def test_a_folder_of_the_original_code_makes_the_video_of_its_twin_of_diffusers(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "small", SMALL)
    films = [
        made(
            tmp_path,
            folder.name,
            "student.model=small",
            f"checkpoint={folder}",
            f"text_cache={tmp_path}/{folder.name}_",
        )
        for folder in save_twins(tmp_path)
    ]
    assert films[0] == films[1] and len(set(films[0])) > 1


def test_a_checkpoint_of_another_known_network_says_which_preset_it_needs(tmp_path, capsys):
    """Nothing of a network of 2.8 GB is allocated: its file is holes."""
    path = tmp_path / "wan.safetensors"
    header, end = {}, 0
    for name, shape in network_shapes("wan_1_3b").items():
        start, end = end, end + 2 * math.prod(shape)
        header[to_original(name)] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    line = rejected(tmp_path, capsys, f"checkpoint={path}")
    assert line.startswith(f"checkpoint={path}: ") and "preset=wan_1_3b" in line


def test_a_live_lora_makes_the_video_of_the_merged_one(tmp_path):
    path = lora(tmp_path / "lora.safetensors")
    live, merged, plain = (
        numpy.frombuffer(b"".join(made(tmp_path, name, *arguments)), numpy.uint8).astype(int)
        for name, arguments in (
            ("live", (f"lora={path}", "lora_live=true")),
            ("merged", (f"lora={path}",)),
            ("plain", ()),
        )
    )
    assert numpy.abs(live - merged).mean() < 0.1 < 1 < numpy.abs(plain - merged).mean()


class Code:
    """What a pickle can carry: a call."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def truncated(folder: Path) -> Path:
    path = folder / "w.safetensors"
    path.write_bytes(SHIPPED_STUDENT.read_bytes()[:-1000])
    return path


def foreign(folder: Path) -> Path:
    path = folder / "w.safetensors"
    save_file({"unet.conv_in.weight": torch.zeros(3)}, path)
    return path


def no_weights(folder: Path) -> Path:
    path = folder / "w.safetensors"
    path.write_text("404: not found")
    return path


def with_code(folder: Path) -> Path:
    path = folder / "w.pt"
    torch.save({"generator": {"proj_out.bias": torch.zeros(3)}, "extra": Code(folder / "ran")}, path)
    return path


def of_a_wider_network(folder: Path) -> Path:
    path = folder / "w.safetensors"
    save_file(load_file(SHIPPED_STUDENT) | {"proj_out.bias": torch.zeros(64)}, path)
    return path


def with_another_config(folder: Path) -> Path:
    path = folder / "converted"
    assert run_script("convert.py", f"source={SHIPPED_STUDENT}", f"out={path}") == 0
    config = path / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 4', '"num_layers": 5'))
    return path


def rejected(folder: Path, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Return the one line that ends the command before a video exists."""
    line = mistake(capsys, "generate.py", "preset=tiny", f"prompt={PROMPT}", f"out={folder}/x.mp4", *arguments)
    assert not (folder / "x.mp4").exists() and not (folder / "ran").exists()
    return line


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (truncated, "w.safetensors"),
        (no_weights, "w.safetensors"),
        (foreign, "unet.conv_in.weight"),
        (with_code, "mkdir"),
        (of_a_wider_network, "proj_out.bias"),
        (with_another_config, "num_layers"),
    ],
)
def test_a_checkpoint_that_is_no_student_of_this_shape_is_refused_with_the_cure(write, fault, tmp_path, capsys):
    line = rejected(tmp_path, capsys, f"checkpoint={write(tmp_path)}")
    assert line.startswith("checkpoint") and fault in line, line


def lora_of_other_layers(folder: Path) -> Path:
    return lora(folder / "l.safetensors", ("blocks.31.attn1.to_q",))


def lora_of_another_width(folder: Path) -> Path:
    return lora(folder / "l.safetensors", width=128)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (truncated, "w.safetensors"),
        (foreign, "unet.conv_in.weight"),
        (with_code, "w.pt"),
        (lora_of_other_layers, "blocks.31.attn1.to_q"),
        (lora_of_another_width, "blocks.0.attn1.to_q"),
        (lambda folder: folder / "none.safetensors", "none.safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_lora_that_does_not_fit_is_refused_by_the_name_of_its_layer(
    write: Callable[[Path], Path], fault, tmp_path, capsys
):
    line = rejected(tmp_path, capsys, f"lora={write(tmp_path)}")
    assert line.startswith("lora") and fault in line, line


def test_a_strength_that_is_no_number_is_rejected(tmp_path, capsys):
    path = lora(tmp_path / "lora.safetensors")
    assert rejected(tmp_path, capsys, f"lora={path}", "lora_strength=.nan").startswith("lora_strength=.nan: ")
