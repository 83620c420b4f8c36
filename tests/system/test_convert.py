import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from models.checkpoints.weight_files import check_weights, save_weights
from models.checkpoints.weight_names import to_original
from models.network_config import TINY
from models.wan.network import Wan
from settings.compose import ROOT
from tests.fakes.commands import mistake, run_script

NEVER = Path(tempfile.mkdtemp()) / "never"
"""A place at which nothing may ever be written."""
STUDENT = ROOT / "assets/tiny/student_uniform.safetensors"


@pytest.fixture
def self_forcing(tmp_path) -> Path:
    """A checkpoint as Self-Forcing saves it: the tiny student as EMA, something else as generator."""
    student = load_file(STUDENT)
    ema = {f"model._fsdp_wrapped_module.{to_original(name)}": tensor for name, tensor in student.items()}
    generator = {f"model.{to_original(name)}": tensor + 1 for name, tensor in student.items()}
    torch.save({"generator": generator, "generator_ema": ema}, tmp_path / "self_forcing_dmd.pt")
    return tmp_path / "self_forcing_dmd.pt"


def test_the_command_makes_of_a_pt_a_folder_that_diffusers_reads(self_forcing, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run_script("convert.py", f"source={self_forcing}", f"out={out}", "dtype=float16", "shard_gb=0.0005") == 0
    shown = capsys.readouterr()
    assert shown.err == "" and f"wrote {out}" in shown.out
    network, loading = WanTransformer3DModel.from_pretrained(out, output_loading_info=True, torch_dtype=torch.float32)
    assert not any(loading.values())
    assert len(list(out.glob("*.safetensors"))) == 3
    for name, tensor in load_file(STUDENT).items():
        assert torch.equal(network.state_dict()[name], tensor.half().float())


def test_the_part_that_is_asked_for_is_written(self_forcing, tmp_path, capsys):
    out = tmp_path / "generator.safetensors"
    assert run_script("convert.py", f"source={self_forcing}", "part=generator", f"out={out}", "format=diffusers") == 0
    assert out.is_file() and capsys.readouterr().out.endswith(f"wrote {out}\n")
    student = load_file(STUDENT)
    assert all(torch.equal(tensor, student[name] + 1) for name, tensor in load_file(out).items())
    with torch.device("meta"):
        check_weights(out, "init", Wan(TINY))


def test_a_lora_is_merged_with_its_strength(tmp_path):
    layer, out = "blocks.0.attn1.to_q", tmp_path / "merged.safetensors"
    matrices = {"lora_A": torch.ones(2, 96), "lora_B": torch.ones(96, 2)}
    lora = tmp_path / "lora.safetensors"
    save_file({f"transformer.{layer}.{side}.weight": matrix for side, matrix in matrices.items()}, lora)
    arguments = [f"source={STUDENT}", f"lora={lora}", "lora_strength=0.25", "format=original", f"out={out}"]
    assert run_script("convert.py", *arguments) == 0
    student = load_file(STUDENT)
    student[f"{layer}.weight"] += 0.5
    written = load_file(out)
    assert written.keys() == {to_original(name) for name in student}
    assert all(torch.equal(written[to_original(name)], tensor) for name, tensor in student.items())


def test_several_loras_are_merged_each_with_its_strength_and_the_effect_is_printed(tmp_path, capsys):
    names, layer, out = ("a, b.safetensors", "c.safetensors"), "blocks.0.attn1.to_q", tmp_path / "merged.safetensors"
    for i, name in enumerate(names):
        matrices = {"lora_A": torch.eye(96)[i : i + 1], "lora_B": torch.ones(96, 1), "alpha": torch.tensor(4.0)}
        roles = {role: f"transformer.{layer}.{role}{'.weight' if 'lora' in role else ''}" for role in matrices}
        save_file({roles[role]: tensor for role, tensor in matrices.items()}, tmp_path / name)
    given = f'lora=["{tmp_path}/{names[0]}", {tmp_path}/{names[1]}]'
    assert run_script("convert.py", f"source={STUDENT}", given, "lora_strength=[1,0.5]", f"out={out}") == 0
    change = load_file(out)[f"{layer}.weight"] - load_file(STUDENT)[f"{layer}.weight"]
    torch.testing.assert_close(change[:, :3], torch.tensor([4.0, 2.0, 0.0]).expand(96, 3), rtol=0, atol=1e-5)
    printed = capsys.readouterr().err
    assert all(fact in printed for fact in ("1 layers at 4 ", "1 layers at 2 ", "strength 0.5", "alpha 4 (tensors)"))


def test_help_is_answered_before_torch_is_imported_and_names_every_key():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "convert.py", "--help"], capture_output=True, text=True, check=True
    )
    assert not any(line.endswith("| torch") for line in done.stderr.splitlines())
    for name in ("source", "format", "out", "part", "lora", "lora_strength", "dtype", "shard_gb", "model"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ([], "source"),
        (["source=x"], "out"),
        (["source=x", "out=y", "--force"], "--force"),
        (["source=x", "out=y", "name=z"], "name=z"),
        (["source=x", "out=y", "format=gguf"], "format=gguf"),
        (["source=x", "out=y.pt", "format=original"], "out=y.pt"),
        (["source=x", "out=y", "dtype=int8"], "dtype=int8"),
        (["source=x", "out=y", "shard_gb=big"], "shard_gb=big"),
        (["source=x", "out=y", "shard_gb=0"], "shard_gb=0.0"),
        (["source=x", "out=y", "shard_gb=nan"], "shard_gb=nan"),
        (["source=x", "out=y", "lora_strength=inf"], "lora_strength=inf"),
        (["source=x", "out=y", "lora=[a,b]", "lora_strength=[1,2,3]"], "lora_strength=[1,2,3]"),
        (["source=x", "out=y", "lora_part=a"], "lora: "),
        (["source=/nowhere.safetensors", f"out={NEVER}"], "source=/nowhere.safetensors"),
        ([f"source={STUDENT}", f"out={NEVER}", "part=critic"], "source="),
        ([f"source={STUDENT}", f"out={NEVER}", "lora=/nowhere.safetensors"], "lora=/nowhere.safetensors"),
        ([f"source={STUDENT}", f"out={NEVER}", "model=wan_1_3b"], "model"),
        ([f"source={STUDENT}", f"out={NEVER}", "model=/nowhere.json"], "model=/nowhere.json"),
        ([f"source={STUDENT}", "out=/proc/xx"], "out=/proc/xx"),
        (["source=~nouser/x", f"out={NEVER}"], "source=~nouser/x"),
        ([f"source={STUDENT}", f"out={ROOT}"], "out="),
        ([f"source={STUDENT}", f"out={STUDENT}/x"], "out="),
        ([f"source={STUDENT}", f"out=/tmp/{'n' * 300}"], "out="),
    ],
)
def test_a_mistake_is_one_line_with_the_key(capsys, arguments, key):
    line = mistake(capsys, "convert.py", *arguments)
    assert line.startswith(key), line
    assert not NEVER.exists()


def test_a_network_that_is_not_known_is_described_by_how_it_differs_from_the_nearest(capsys, tmp_path):
    tensors = load_file(STUDENT)
    del tensors["proj_out.bias"]
    save_weights(tensors, tmp_path / "w.safetensors", {})
    line = mistake(capsys, "convert.py", f"source={tmp_path}/w.safetensors", f"out={tmp_path}/out")
    assert line.startswith(f"source={tmp_path}/w.safetensors") and " tiny " in line and "proj_out.bias" in line


class Code:
    """What a pickle can carry: a call."""

    def __reduce__(self):
        return os.mkdir, (str(NEVER),)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.safetensors", lambda path: path.write_bytes(STUDENT.read_bytes()[:-1000])),
        ("w.safetensors", lambda path: path.write_text("404: not found")),
        ("w.pt", lambda path: torch.save({"generator": Code()}, path)),
        ("w.pt", lambda path: path.write_bytes(b"PK\3\4")),
    ],
)
def test_a_source_that_is_damaged_or_holds_code_is_refused_and_nothing_of_it_is_run(name, write, capsys, tmp_path):
    write(tmp_path / name)
    line = mistake(capsys, "convert.py", f"source={tmp_path}/{name}", f"out={tmp_path}/out")
    assert line.startswith(f"source={tmp_path}/{name}")
    assert not NEVER.exists() and not (tmp_path / "out").exists()


def test_the_config_beside_the_source_decides_which_network_it_is(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_script("convert.py", f"source={STUDENT}", f"out={first}", "format=original") == 0
    assert load_file(first / "diffusion_pytorch_model.safetensors").keys() == {
        to_original(n) for n in load_file(STUDENT)
    }
    assert f"wrote {first}" in capsys.readouterr().out
    text = (first / "config.json").read_text().replace('"num_heads": 4', '"num_heads": 8')
    (first / "config.json").write_text(text)
    assert run_script("convert.py", f"source={first}", f"out={second}") == 0
    assert WanTransformer3DModel.load_config(second)["num_attention_heads"] == 8


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((1, 1, 1, 1, 1, 1, 1, 1, 1, 1)))
    line = mistake(capsys, "convert.py", f"source={STUDENT}", f"out={tmp_path}/out")
    assert line.startswith(f"out={tmp_path}/out: ") and "0.00277 GB" in line and "1e-09 GB" in line
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_on_the_way_is_said_with_the_cure_and_left_as_it_was(capsys, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        line = mistake(capsys, "convert.py", f"source={STUDENT}", f"out={tmp_path}/out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line.startswith(f"out={tmp_path}/out: ") and os.strerror(errno.EFBIG) in line
    assert not list(tmp_path.iterdir())


@pytest.mark.core
@pytest.mark.proof
def test_a_killed_conversion_leaves_no_checkpoint_under_the_name(self_forcing, tmp_path, capsys):
    out = tmp_path / "out"
    script = (
        "import os, models.checkpoints.conversion as conversion\n"
        "from tests.fakes.commands import run_script\n"
        "conversion.flush = lambda path: os.kill(os.getpid(), 9)\n"
        f"run_script('convert.py', 'source={self_forcing}', 'out={out}')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -9 and not out.exists()
    assert ".out.partial exists" in mistake(capsys, "convert.py", f"source={self_forcing}", f"out={out}")
