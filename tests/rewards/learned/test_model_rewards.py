"""HPSv3 and VideoAlign, by stubs of their interfaces in processes of their own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy
import psutil
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from huggingface_hub import constants

from models.errors import ConfigError
from rewards.attempt import attempt
from rewards.learned.model_process import ModelFailed
from rewards.learned.model_rewards import _write_video, model_process
from rewards.learned_config import LearnedConfig
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer

STUBS = Path(__file__).parents[2] / "fakes/learned_rewards"


def clip(level: float, prompt: str = "a film", frames: int = 9) -> Clip:
    return Clip(prompt, torch.full((frames, 3, 32, 48), level), torch.zeros(frames, 1, 1, 1))


def config(tmp_path: Path, timeout_s: float = 30.0, **changes) -> RewardConfig:
    given = {
        "device": "cpu", "hpsv3_python": sys.executable, "videoalign_python": sys.executable,
        "videoalign_code": str(STUBS), "videoalign_weights": str(tmp_path),
    } | changes  # fmt: skip
    return RewardConfig(learned=LearnedConfig(**given), timeout_s=timeout_s)


@pytest.fixture(autouse=True)
def stubs_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STUBS))
    yield
    model_process.cache_clear()


def test_hpsv3_is_the_mean_preference_over_frames_of_each_clip(tmp_path):
    scores = make_reward("hpsv3", config(tmp_path))([clip(0.2), clip(0.8), clip(0.8, "dark")])
    assert scores.tolist() == pytest.approx([0.2, 0.8, -0.2], abs=0.01)


def test_a_model_that_raises_or_dies_leaves_one_missing_score_and_scores_the_next_clip(tmp_path):
    reward = make_reward("hpsv3", config(tmp_path))
    for prompt in ("raise", "die"):
        bad = attempt("hpsv3", reward, [clip(0.5, prompt)], 30.0)
        assert bad.scores.isnan().all() and bad.failure.startswith("ModelFailed")
        assert reward([clip(0.5)]).item() == pytest.approx(0.5, abs=0.01)


def test_a_model_that_does_not_answer_in_time_is_replaced(tmp_path):
    reward = make_reward("hpsv3", config(tmp_path, timeout_s=1.0))
    with pytest.raises(ModelFailed):
        reward([clip(0.5, "sleep")])
    assert reward([clip(0.5)]).item() == pytest.approx(0.5, abs=0.01)


def test_requests_of_several_threads_get_their_own_answers(tmp_path):
    reward = make_reward("hpsv3", config(tmp_path))
    levels = [i / 20 for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda level: reward([clip(level)]).item(), levels))
    assert scores == pytest.approx(levels, abs=0.01)


def test_a_model_ends_with_the_process_that_started_it(tmp_path):
    script = (
        "import os, sys; from rewards.learned.model_process import ModelProcess\n"
        "model = ModelProcess(sys.executable, ['hpsv3', 'cpu'], 30, 30); model.load()\n"
        "print(model._process.pid, flush=True); os._exit(0)"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=STUBS.parents[2], capture_output=True, text=True)
    child = psutil.Process(int(shown.stdout)) if psutil.pid_exists(int(shown.stdout)) else None
    assert child is None or child.wait(timeout=10) is None


def test_the_three_scores_of_videoalign_come_from_one_model_that_sees_each_clip_once(tmp_path):
    names = ("videoalign_vq", "videoalign_mq", "videoalign_ta")
    rewards = [make_reward(name, config(tmp_path)) for name in names]
    clips = [clip(0.25, frames=5), clip(0.75, frames=9)]
    quality, motion, calls = (reward(clips).tolist() for reward in rewards)
    assert quality == pytest.approx([0.25, 0.75], abs=0.02)
    assert motion == [5, 9] and calls == [1, 2]


def test_videoalign_sees_a_clip_in_the_colours_of_bt709_tagged_as_such(tmp_path):
    colours = numpy.array([(200, 40, 40), (40, 160, 90)], numpy.uint8)
    _write_video(tmp_path / "x.mp4", numpy.broadcast_to(colours[:, None, None], (2, 33, 48, 3)), 8.0)
    with av.open(str(tmp_path / "x.mp4")) as film:
        frames = [frame for frame in film.decode(video=0)]
    tags = {(frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) for frame in frames}
    assert tags == {(Colorspace.ITU709, 1, 1, ColorRange.MPEG)} and frames[0].height == 32
    for frame, colour in zip(frames, colours, strict=True):
        rgb = frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG)
        assert numpy.abs(rgb.astype(int) - colour).max() <= 4


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("hpsv3", {"hpsv3_weights": "missing"}, "reward.learned.hpsv3_weights"),
        ("hpsv3", {"hpsv3_python": "no/python"}, "reward.learned.hpsv3_python"),
        ("videoalign_mq", {"videoalign_code": "nowhere"}, "reward.learned.videoalign_code"),
    ],
)
def test_a_path_that_is_not_there_names_its_key_before_anything_starts(tmp_path, name, changes, key):
    with pytest.raises(ConfigError) as error:
        make_reward(name, config(tmp_path, **changes))
    assert error.value.key == key


def test_a_model_loads_in_the_process_that_scores_and_says_so_where_it_does_not(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    scorer = Scorer(config(tmp_path, hpsv3_weights=str(broken)), ["hpsv3"], lambda latents: latents)
    with pytest.raises(ConfigError) as error:
        scorer.load()
    assert error.value.key == "reward.learned.hpsv3_python" and "holds no weights" in str(error.value)


def test_weights_named_by_a_repository_are_found_when_the_model_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owner--name"
    for path in (folder / "refs/main", folder / "snapshots/aa/HPSv3.safetensors"):
        path.parent.mkdir(parents=True)
        path.write_text("aa")
    reward = make_reward("hpsv3", config(tmp_path, hpsv3_weights="owner/name"))
    assert reward._model._command[-1] == str(tmp_path / "models--owner--name/snapshots/aa/HPSv3.safetensors")
    with pytest.raises(ConfigError) as error:
        make_reward("videoalign_vq", config(tmp_path, videoalign_weights="owner/other")).load()
    assert error.value.key == "reward.learned.videoalign_weights"


@pytest.mark.parametrize("name", ["clip_score", "hpsv3", "videoalign_vq", "videoalign_mq", "videoalign_ta"])
def test_a_learned_reward_without_its_paths_is_refused_with_the_configuration(name):
    with pytest.raises(ConfigError) as error:
        RewardConfig(terms={name: 1.0})
    assert error.value.key.startswith("reward.learned.")
