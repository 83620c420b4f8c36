"""generate.py as a person runs it, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import psutil
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.weight_files import save_weights
from models.network_config import CONFIGS, StudentConfig, WanConfig
from models.network_sizes import sampling_bytes
from models.wan.network import Wan
from models.worlds.tiny_judge import judge
from models.worlds.world_config import SHIPPED_STUDENT
from settings.compose import ROOT
from tests.fakes.commands import mistake, replaced, run_script
from tests.fakes.generating import PROMPT, frames_of, run
from tests.models.small_text import TEXT_DIM, save_text_encoder


def test_a_prompt_becomes_a_video_of_the_asked_length(tmp_path):
    shown = run(f"prompt={PROMPT}", "seconds=2.5", f"out={tmp_path}/x.mp4")
    assert shown.returncode == 0, shown.stderr
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 40 and frames[0].shape == (192, 192, 3)
    assert shown.stdout == b"" and b"40/40 frames" in shown.stderr


def test_a_pipe_gets_the_frames_and_nothing_else(tmp_path):
    arguments = (f"prompt={PROMPT}", "seconds=1", "enlarge=2", "seed=3")
    shown = run(*arguments, "out=-")
    assert shown.returncode == 0, shown.stderr
    frames = numpy.frombuffer(shown.stdout, numpy.uint8).reshape(16, 24, 24, 3)
    assert run_script("generate.py", "preset=tiny", *arguments, f"out={tmp_path}/x.mp4") == 0
    filmed = numpy.stack(frames_of(tmp_path / "x.mp4")).astype(int)
    assert numpy.abs(filmed - frames).mean() < 8  # of 255: colours are stored at half the resolution


PEAK = """
import sys
from pathlib import Path
import torch
from tests.fakes.commands import run_script
torch.set_num_threads(1)
assert run_script("generate.py", *sys.argv[1:]) == 0
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.proof
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = {}
    for frames in (42, 400):
        arguments = (
            f"prompt={PROMPT}", f"seconds={frames / 16}", f"out={tmp_path}/{frames}.mp4",
            "height=48", "width=48", "enlarge=20",
        )  # fmt: skip
        shown = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=550
        )
        assert shown.returncode == 0, shown.stderr
        peaks[frames] = int(shown.stdout.split()[1]) * 1024
    kept = (400 - 42) * 960 * 960 * 3
    assert kept >= peaks[42]  # keeping frames would double it
    assert peaks[400] <= 1.05 * peaks[42]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ([f"prompt={PROMPT}", "seconds=0"], "seconds=0.0"),
        ([f"prompt={PROMPT}", "seconds=-3"], "seconds"),
        ([f"prompt={PROMPT}", "seconds=nan"], "seconds=nan"),
        ([f"prompt={PROMPT}", "seconds=long"], "seconds=long"),
        ([f"prompt={PROMPT}", "seconds=0.01"], "seconds"),
        ([f"prompt={PROMPT}", "seconds="], "seconds"),
        ([f"prompt={PROMPT}", "seconds=1e9999"], "seconds=1e9999"),
        ([f"prompt={PROMPT}", "height=10"], "height=10"),
        ([f"prompt={PROMPT}", "batch=0"], "batch=0"),
        ([f"prompt={PROMPT}", "sink=4"], "sink=4"),
        ([f"prompt={PROMPT}", "sink=-3"], "sink=-3"),
        ([f"prompt={PROMPT}", "checkpoint=none.safetensors"], "checkpoint=none.safetensors"),
        ([f"prompt={PROMPT}", "checkpoint="], "checkpoint"),
        ([f"prompt={PROMPT}", "checkpoint=~nouser/x"], "checkpoint=~nouser/x"),
        ([f"prompt={PROMPT}", "checkpoint=README.md"], "checkpoint=README.md"),
        ([f"prompt={PROMPT}", "student.model=wan_1_3b"], "checkpoint"),
        ([f"prompt={PROMPT}", "student.foo=3"], "student.foo=3"),
        ([f"prompt={PROMPT}", "student.height=13"], "student.height"),
        ([f"prompt={PROMPT}", "device=cuda:77"], "device=cuda:77"),
        ([f"prompt={PROMPT}", "device=abacus"], "device=abacus"),
        ([f"prompt={PROMPT}", "dtype=int3"], "dtype=int3"),
        ([f"prompt={PROMPT}", "image=none.png"], "image=none.png"),
        ([f"prompt={PROMPT}", "video=none.mp4"], "video=none.mp4"),
        ([f"prompt={PROMPT}", "images=none"], "images=none"),
        ([f"prompt={PROMPT}", "image=a.png", "video=a.mp4"], "image=a.png"),
        ([f"prompt={PROMPT}", "image_fit=crop"], "image_fit=crop"),
        ([f"prompt={PROMPT}", "image_background=colour"], "image_background=colour"),
        ([f"prompt={PROMPT}", "fps=16/0"], "fps=16/0"),
        (["from=none.json"], "from=none.json"),
        (["from=README.md"], "from=README.md"),
        ([f"prompt={PROMPT}", "seeds=[1,1]"], "seeds=[1,1]"),
        ([f"prompt={PROMPT}", "seeds=[1,2]"], "out="),
        ([f"prompt={PROMPT}", "seeds=3"], "seeds=3"),
        ([f"prompt={PROMPT}", "dmd.steps=3"], "dmd.steps=3"),
        ([f"prompt={PROMPT}", "prompts=x.txt"], "prompt"),
        ([], "prompt"),
        (["prompt=  "], "prompt"),
        (["prompt"], "prompt"),
        (["prompts=none.txt"], "prompts=none.txt"),
        (['prompt_schedule=[[1,"a"]]'], "prompt_schedule=[[1,a]]"),
        (['prompt_schedule=[["a",0]]'], "prompt_schedule=[[a,0]]"),
        ([f"prompt={PROMPT}", "preset=foo"], "preset=foo"),
        ([f"prompt={PROMPT}", "enlarge=2000"], "enlarge"),
        ([f"prompt={PROMPT}", "height=4", "width=4", "enlarge=1", "fps=2147483648"], "fps"),
        ([f"prompt={PROMPT}", "vae=none"], "vae=none"),
        ([f"prompt={PROMPT}", "sink=999"], "sink=999"),
        ([f"prompt={PROMPT}", "seconds=1e30"], "seconds="),
        ([f"prompt={PROMPT}", "checkpoint=assets/tiny/teacher.safetensors"], "checkpoint="),
        ([f"prompt={PROMPT}", "height=32768", "width=32768", "enlarge=1"], "height=32768"),
        ([f"prompt={PROMPT}", "lora_strength=2"], "lora"),
        ([f"prompt={PROMPT}", "recache=true"], "recache=true"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_before_a_file_is_made(arguments, key, tmp_path, capsys):
    line = mistake(capsys, "generate.py", *arguments, f"out={tmp_path}/x.mp4")
    assert line.startswith(key), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "key"), [("generate.py", "checkpoint"), ("convert.py", "source")])
def test_a_flipped_byte_of_the_weights_is_noticed(command, key, tmp_path, capsys):
    path = tmp_path / "student.safetensors"
    save_weights(load_file(SHIPPED_STUDENT), path, {"seed": 0})
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    more = [f"prompt={PROMPT}", "seconds=0.1"] if command == "generate.py" else []
    out = tmp_path / ("x.mp4" if more else "out")
    assert mistake(capsys, command, f"{key}={path}", f"out={out}", *more).startswith(f"{key}: ") and not out.exists()


@pytest.mark.parametrize(("batch", "element", "key"), [(1, 2, "height="), (1, 4, "dtype=float32"), (2, 4, "batch=2")])
def test_what_the_free_memory_cannot_hold_is_refused_before_it_is_computed(
    batch, element, key, tmp_path, capsys, monkeypatch
):
    free = sampling_bytes(StudentConfig(), batch, element) - 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    given = [f"prompt={PROMPT}", "seeds=[1,2]", f"batch={batch}", f"out={tmp_path}/videos"]
    assert mistake(capsys, "generate.py", *given).startswith(key) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("prompt", ["purple", 60 * "longprompt "])
def test_a_prompt_that_the_tiny_world_does_not_know_is_quoted_in_one_line(prompt, tmp_path, capsys):
    assert prompt[:18] in mistake(capsys, "generate.py", f"prompt={prompt}", f"out={tmp_path}/x.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["there.mp4", "x.avi", "there.mp4/x.mp4", f"{'n' * 300}.mp4"])
def test_a_file_that_exists_or_cannot_be_made_is_not_written(out, tmp_path, capsys):
    (tmp_path / "there.mp4").write_text("precious")
    assert mistake(capsys, "generate.py", f"prompt={PROMPT}", f"out={tmp_path}/{out}").startswith(f"out={tmp_path}/")
    assert (tmp_path / "there.mp4").read_text() == "precious"


def test_a_folder_that_nobody_can_write_in_is_a_mistake_in_out(capsys):
    """For root every folder looks writable until a file is made in it."""
    for out in ("/proc/longtake/x.mp4", "/proc/x.mp4", "/proc/longtake"):
        assert mistake(capsys, "generate.py", f"prompt={PROMPT}", "seconds=0.1", f"out={out}").startswith(f"out={out}")


def test_paths_are_taken_as_typed(tmp_path):
    (tmp_path / "a, b=#1 (%)@.txt").write_text(PROMPT)
    out = tmp_path / "run (1), a=b #@%.mp4"
    assert run_script("generate.py", f"prompts={tmp_path}/a, b=#1 (%)@.txt", "seconds=0.1", f"out={out}") == 0
    assert len(frames_of(out)) == 2


def test_several_videos_are_the_same_in_any_batch(tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\na blue square glides quickly over a warm wall\n")
    common = [f"prompts={tmp_path}/prompts.txt", "seeds=[3,4]", "seconds=0.5", "enlarge=16"]
    for batch in (1, 3):
        assert run_script("generate.py", *common, f"batch={batch}", f"out={tmp_path}/{batch}") == 0
    names = sorted(path.name for path in (tmp_path / "1").glob("*.mp4"))
    assert len(names) == 4 and names[0] == "0000_a_red_disc_drifts_slowly_over_a_cool_wal_3.mp4"
    for name in names:
        alone, together = (numpy.stack(frames_of(tmp_path / batch / name)).astype(int) for batch in ("1", "3"))
        assert alone.shape == (8, 192, 192, 3) and numpy.abs(alone - together).max() <= 3


def test_prompts_come_from_every_kind_of_file_that_training_reads(tmp_path):
    (tmp_path / "marked.txt").write_text(f"{PROMPT}\n", encoding="utf-8-sig")
    (tmp_path / "lines.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n", encoding="utf-8-sig")
    made = []
    for name in ("marked.txt", "lines.jsonl"):
        out = tmp_path / f"{name}.mp4"
        assert run_script("generate.py", f"prompts={tmp_path}/{name}", "seconds=0.1", f"out={out}") == 0
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_a_shape_that_could_not_be_trained_is_generated_with(tmp_path):
    arguments = [f"prompt={PROMPT}", "student.horizon_frames=6", "seconds=0.1", f"out={tmp_path}/x.mp4"]
    assert run_script("generate.py", *arguments) == 0


def test_a_picture_too_large_to_open_is_refused(tmp_path, capsys, monkeypatch):
    Image.new("1", (1000, 1000)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    line = mistake(capsys, "generate.py", f"prompt={PROMPT}", f"image={tmp_path}/x.png", f"out={tmp_path}/x.mp4")
    assert line.startswith(f"image={tmp_path}/x.png: ")


def test_a_picture_begins_the_video(tmp_path):
    Image.new("RGB", (40, 20), (200, 40, 40)).save(tmp_path / "red.png")
    assert (
        run_script("generate.py", f"prompt={PROMPT}", "seconds=1", f"image={tmp_path}/red.png", f"out={tmp_path}/x.mp4")
        == 0
    )
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 16 and numpy.abs(frames[0].mean((0, 1)) - (200, 40, 40)).max() < 4


def small_frames(path: Path) -> Tensor:
    """Pixels [T 3 12 12] in [0, 1] of a tiny video that was enlarged 16 times."""
    frames = numpy.stack(frames_of(path)).reshape(-1, 12, 16, 12, 16, 3).mean((2, 4)) / 255
    return torch.from_numpy(frames).float().permute(0, 3, 1, 2)


def test_a_clip_is_continued_without_a_jump(tmp_path):
    """Position and light change from the clip's last frame to the first made one no more than inside the clip."""
    clip, arguments = tmp_path / "clip.mp4", [f"prompt={PROMPT}", "seed=106", "seconds=0.4"]
    assert run_script("generate.py", f"prompt={PROMPT}", "seed=6", "seconds=3", f"out={clip}") == 0
    jumps = {}
    for name, more in {"continued": [f"video={clip}"], "other": []}.items():
        out = tmp_path / f"{name}.mp4"
        assert run_script("generate.py", *arguments, *more, f"out={out}") == 0
        verdict = judge(torch.cat([small_frames(clip), small_frames(out)])[None], [PROMPT])
        assert verdict.position.shape[1] == 48 + 6
        steps = verdict.position[0].diff(dim=0).norm(dim=-1), verdict.light[0, :, 0].diff().abs()
        jumps[name] = [float(step[47] / step[:47].max()) for step in steps]
    assert max(jumps["continued"]) <= 1 < 2 < min(jumps["other"]), jumps


def test_a_record_makes_the_video_again_bit_for_bit(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    assert run_script("generate.py", f"prompt={PROMPT}", "seconds=1", f"out={clip}") == 0
    schedule = f'prompt_schedule=[[0,"{PROMPT}"],[0.4,"a blue disc drifts slowly over a cool wall"]]'
    arguments = [schedule, "recache=true", "sink=3", "seed=5", "seconds=0.8", f"video={clip}"]
    assert run_script("generate.py", *arguments, f"out={tmp_path}/x.mp4") == 0
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["keys"]["seed"] == 5 and record["keys"]["video"] == str(clip) and len(record["weights"]) == 16
    capsys.readouterr()
    assert run_script("generate.py", f"from={tmp_path}/x.json", f"out={tmp_path}/y.mp4") == 0
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "y.mp4").read_bytes()
    assert json.loads((tmp_path / "y.json").read_text()) == record
    assert run_script("generate.py", f"from={tmp_path}/x.json", "seed=6", f"out={tmp_path}/z.mp4") == 0
    assert (tmp_path / "x.mp4").read_bytes() != (tmp_path / "z.mp4").read_bytes()
    (tmp_path / "y.mp4").unlink()
    assert run_script("generate.py", f"from={tmp_path}/y.json", f"out={tmp_path}/y.mp4") == 0, "its own record may stay"
    assert mistake(capsys, "generate.py", f"prompt={PROMPT}", f"out={tmp_path}/x.mkv").startswith("out=")
    clip.write_bytes(clip.read_bytes() + bytes(1))
    assert run_script("generate.py", f"from={tmp_path}/x.json", f"out={tmp_path}/w.mp4") == 2


def test_a_record_of_two_loras_makes_the_video_again_bit_for_bit(tmp_path, monkeypatch, capsys):
    names = ("a, b.safetensors", "c.safetensors")
    for i, name in enumerate(names):
        matrices = {"lora_A": torch.eye(96)[i : i + 1], "lora_B": torch.ones(96, 1)}
        save_file({f"transformer.blocks.0.attn1.to_q.{k}.weight": v for k, v in matrices.items()}, tmp_path / name)
    arguments = [f"prompt={PROMPT}", "seconds=0.4", "enlarge=1"]
    monkeypatch.chdir(tmp_path)
    loras = [f'lora=["{names[0]}",{names[1]}]', "lora_strength=[1,0.5]"]
    assert run_script("generate.py", *arguments, *loras, "out=x.mp4") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_script("generate.py", "from=../x.json", "out=y.mp4") == 0
    assert run_script("generate.py", *arguments, f"lora={tmp_path}/{names[0]}", "out=z.mp4") == 0
    again, other = Path("y.mp4").read_bytes(), Path("z.mp4").read_bytes()
    assert again == (tmp_path / "x.mp4").read_bytes() != other
    save_file({"transformer.blocks.0.attn1.to_q.diff": torch.zeros(96, 96)}, tmp_path / names[1])
    assert run_script("generate.py", "from=../x.json", "out=w.mp4") == 2 and not Path("w.mp4").exists()
    assert "c.safetensors" in capsys.readouterr().err.splitlines()[-1]


def test_videos_of_a_table_have_their_own_schedules_and_pictures(tmp_path, capsys):
    Image.new("RGB", (12, 12), (200, 40, 40)).save(tmp_path / "red.png")
    lines = [
        {"prompts": [PROMPT, PROMPT.replace("red", "blue")]},
        {"prompt": PROMPT, "image": "red.png", "duration": 5},
        {"prompt_schedule": [[0, PROMPT], [0.2, PROMPT.replace("red", "green")]]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = [f"prompts={tmp_path}/p.jsonl", "seconds=0.8", "enlarge=1", "batch=3", f"out={tmp_path}/{{index}}.mkv"]
    assert run_script("generate.py", *arguments) == 0
    assert "duration" in capsys.readouterr().err
    made = [numpy.stack(frames_of(tmp_path / f"{i}.mkv")) for i in range(3)]
    assert [video.shape for video in made] == [(13, 12, 12, 3)] * 3
    assert numpy.abs(made[1][0].mean((0, 1)) - (200, 40, 40)).max() < 4
    records = [json.loads((tmp_path / f"{i}.json").read_text())["keys"] for i in range(3)]
    assert records[0]["prompt_schedule"][1][0] == 0.4 and records[2]["prompt_schedule"][1][0] == 0.2
    assert [record["image"] for record in records] == [None, str(tmp_path / "red.png"), None]


@pytest.fixture
def wan_folder(tmp_path, monkeypatch):
    """Small random weights in the formats of Wan2.1."""
    small = WanConfig(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT_DIM, text_len=8,
        freq_dim=16, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    monkeypatch.setitem(CONFIGS, "small_wan", small)
    torch.manual_seed(0)
    save_weights(Wan(small).state_dict(), tmp_path / "student.safetensors", {})
    AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ).save_pretrained(tmp_path / "vae")
    return save_text_encoder(tmp_path)


def test_a_network_of_wans_kind_streams_through_text_encoder_and_vae(wan_folder, tmp_path, capsys):
    arguments = [
        "student.model=small_wan", f"checkpoint={wan_folder}/student.safetensors", f"vae={wan_folder}",
        f"text_encoder={wan_folder}", f"text_cache={tmp_path}/cache", "height=32", "width=48", "seconds=2", "enlarge=1",
    ]  # fmt: skip
    schedule = 'prompt_schedule=[[0,"a cat, walks: on grass"],[1,"a dog walks on a cat on a dog on a cat"]]'
    assert run_script("generate.py", *arguments, schedule, "recache=true", f"out={tmp_path}/x.mp4") == 0
    said = capsys.readouterr().err
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 32 and frames[0].shape == (32, 48, 3)
    assert re.search(r"\b8\b", said)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    more = ["prompt=a dog walks", f"video={tmp_path}/x.mp4", f"out={tmp_path}/more.mp4"]
    assert run_script("generate.py", *replaced(arguments, "seconds=0.5"), *more) == 0
    assert " 21 " in capsys.readouterr().err, "6 latent frames are two blocks, of 1 + 5 * 4 frames"
    assert len(frames_of(tmp_path / "more.mp4")) == 8
    line = mistake(capsys, "generate.py", *replaced(arguments, "height=40"), "prompt=a cat", f"out={tmp_path}/y.mp4")
    assert line.startswith("height=40: ") and "16" in line
