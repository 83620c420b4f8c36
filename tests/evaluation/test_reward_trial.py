import re
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import av
import numpy
import pytest
import torch
from safetensors.torch import save_file

import settings
from evaluation import reward_trial
from evaluation.adversarial_clips import adversarial_clips, reference_clip
from evaluation.reward_trial import TrialMistakes
from evaluation.video_files import read_videos, video_files
from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video
from tests.fakes.commands import mistake

ROOT = Path(__file__).resolve().parents[2]
TRY = import_module("rewards.try")


def film(path: Path, pixels: torch.Tensor) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=16)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *pixels.shape[2:], "yuv420p", 4_000_000
        for frame in (pixels * 255).byte().permute(0, 2, 3, 1).numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture
def folder(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(0)
    real = torch.stack([sample_video(prompt, 30, generator) for prompt in PROMPTS[:2]])
    save_file({"video": (real * 255).round().byte()}, tmp_path / "tiny.safetensors")
    (tmp_path / "tiny.txt").write_text("\n".join(PROMPTS[:2]))
    film(tmp_path / "pan.mp4", adversarial_clips(24, (64, 96))["smooth"])
    return tmp_path


def score(arguments: list[str]) -> None:
    TRY.main(settings.read_keys(arguments, TRY.TrialOptions))


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "rewards.try", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def cells(output: str, row: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if re.search(rf"\b{row}\b", line) and "\u2502" in line)
    return [cell.strip() for cell in line.strip("\u2502").split("\u2502")][1:]


def test_every_video_gets_a_row_and_a_picture_and_what_cannot_be_told_is_a_dash_with_its_reason(folder, capsys):
    score([f"videos={folder}", f"out={folder / 'pictures'}", "reward.upsample=2"])
    printed = capsys.readouterr().out
    assert cells(printed, "tiny_0")[-2:] == cells(printed, "tiny_1")[-2:] == ["1.000", "1.000"]
    assert cells(printed, "pan")[-2:] == ["-", "-"] and float(cells(printed, "pan")[0]) > 0.5
    assert "- tiny_judge: judges frames of 12 x 12 " in printed and "ValueError" not in printed
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    assert pictures == ["pan.flow.png", "tiny_0.flow.png", "tiny_1.flow.png"]


def test_the_adversarial_table_puts_smooth_first(monkeypatch, capsys):
    for name, make in (("adversarial_clips", adversarial_clips), ("reference_clip", reference_clip)):
        monkeypatch.setattr(reward_trial, name, partial(make, 25, (64, 96)))  # full size takes a minute
    score(["clips=true", "reward.terms={no_cut: 1}"])
    printed = capsys.readouterr().out
    composite = {name: float(cells(printed, name)[0]) for name in adversarial_clips(2, (16, 16))}
    assert max(composite, key=composite.get) == "smooth" and composite["static"] == 0


def test_frames_of_a_film_and_of_a_tensor_arrive_as_they_were(folder):
    film_path, tensor_path = video_files(str(folder))
    (pan,) = read_videos(film_path)
    expected = adversarial_clips(24, (64, 96))["smooth"]
    assert pan.frames.shape == (24, 3, 64, 96) and pan.prompt == ""
    assert (pan.frames.float() / 255 - expected).abs().mean() < 0.03
    first, second = read_videos(tensor_path)
    assert (first.prompt, second.prompt) == PROMPTS[:2] and first.frames.shape == (30, 3, 12, 12)


def test_help_is_answered_without_torch_and_lists_every_key():
    answer = run("--help", "all")
    assert all(f"  {key} " in answer.stdout for key in settings.keys_of(TRY.TrialOptions))
    assert "| torch\n" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ([], "videos"),
        (["videos"], "videos"),
        (["videos=a", "speed=3"], "speed"),
        (["videos=a", "reward.speed=3"], "reward.speed"),
        (["videos=a", "reward.upsample=big"], "reward.upsample"),
        (["clips=perhaps"], "clips"),
        (["videos="], "videos"),
        (["videos=a", "out=pyproject.toml"], "out"),
        (["clips=true", "reward.terms.no_cut=0.5"], "reward.terms.no_cut"),
        (["clips=true", "reward.terms={no_cut}"], "reward.terms"),
        (["clips=true", "reward.terms={no_cut: much}"], "reward.terms"),
        (["clips=true", "reward.top_share=2"], "reward.top_share"),
        (["clips=true", "reward.vae=x.pth"], "reward.vae"),
    ],
)
def test_a_command_line_with_a_mistake_names_the_key(arguments, key, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}[ =:]"):
        settings.read_keys(arguments, TRY.TrialOptions)


def test_arguments_become_typed_keys():
    options = settings.read_keys(
        ["videos=films (1), a=b", "clips=true", "reward.terms={no_cut: 1, my.own.Reward: 0.5}", "reward.upsample=4",
         "reward.top_share=0.1", "reward.url=http://host/score?a=b"], TRY.TrialOptions,
    )  # fmt: skip
    assert (options.videos, options.clips, options.out) == ("films (1), a=b", True, "runs/rewards")
    assert options.reward.terms == {"no_cut": 1.0, "my.own.Reward": 0.5}
    assert (options.reward.upsample, options.reward.top_share) == (4, 0.1)
    assert options.reward.url == "http://host/score?a=b"


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path, capsys):
    assert mistake(capsys, "rewards.try", f"videos={tmp_path / 'nowhere'}").startswith("videos=")


def test_folders_without_videos_and_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        video_files(str(tmp_path))
    assert (caught.value.key, caught.value.value) == ("videos", str(tmp_path))
    (tmp_path / "broken.mp4").write_bytes(b"not a video at all")
    (tmp_path / "broken.safetensors").write_bytes(b"not a video at all")
    save_file({"frames": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file({"video": torch.zeros(2, 3)}, tmp_path / "flat.safetensors")
    for name in ("broken.mp4", "broken.safetensors", "other.safetensors", "flat.safetensors"):
        with pytest.raises(ConfigError) as caught:
            list(read_videos(tmp_path / name))
        assert (caught.value.key, caught.value.value) == ("videos", tmp_path / name)


def test_a_file_that_is_no_video_costs_the_others_nothing_and_is_named_at_the_end(folder, capsys):
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    with pytest.raises(TrialMistakes, match=r"^videos=.*broken\.mp4: ") as caught:
        score([f"videos={folder}", f"out={folder / 'pictures'}", "reward.upsample=2"])
    assert "\n" not in str(caught.value)
    assert float(cells(capsys.readouterr().out, "pan")[0]) > 0.5


def test_a_named_reward_that_scores_nothing_is_named_at_the_end_and_a_shipped_one_is_not(folder, capsys):
    (folder / "tiny.safetensors").unlink()
    keys = [f"videos={folder}", f"out={folder / 'pictures'}", "reward.terms={no_cut: 1}"]
    score(keys)
    with pytest.raises(TrialMistakes, match=r"reward\.terms=tiny_judge: .*12 x 12 "):
        score([*keys[:2], "reward.terms={tiny_judge: 1}"])
    assert capsys.readouterr().out.count(f"{folder / 'pictures'}") == 2


def test_a_video_shorter_than_a_window_and_prompts_for_other_videos_are_refused(folder):
    with pytest.raises(TrialMistakes, match=r"reward\.window_frames=25: pan .*\b24\b"):
        score([f"videos={folder}", f"out={folder / 'pictures'}", "reward.window_frames=25"])
    (folder / "tiny.txt").write_text(PROMPTS[0])
    with pytest.raises(ConfigError, match=r"^videos=.*tiny\.txt: .*1 prompts .*2 videos"):
        list(read_videos(folder / "tiny.safetensors"))
