import json
import shutil
from pathlib import Path

import pytest
import torch

from learner import checkpoint
from learner.checkpoint import DamagedCheckpoint

STATE = {"learner": {"student": 3, "version": 3}, "position": {"next_rollout": 48}}


def tensors(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "student": {
            "blocks.0.weight": torch.randn(4, 3, generator=generator),
            "bias": torch.randn(3, generator=generator),
        },
        "optimizer": {"bias/step": torch.tensor(float(seed)), "bias/exp_avg": torch.randn(3, generator=generator)},
    }


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[group].keys() == other[group].keys()
        and all(torch.equal(one[group][name], other[group][name]) for name in one[group])
        for group in one
    )


def refusal(path: Path) -> str:
    """The one line with which a checkpoint is refused, whether it is checked or loaded."""
    with pytest.raises(DamagedCheckpoint) as loading:
        checkpoint.load(path)
    with pytest.raises(DamagedCheckpoint) as checking:
        checkpoint.verify(path)
    message = str(loading.value)
    assert message == str(checking.value) and "\n" not in message
    assert f"remove {path} to resume from the checkpoint before it" in message
    return message


@pytest.fixture
def saved(tmp_path) -> Path:
    return checkpoint.save(tmp_path, 3, tensors(3), STATE)


def test_a_checkpoint_gives_back_bit_by_bit_what_was_saved(saved):
    checkpoint.verify(saved)
    loaded, state = checkpoint.load(saved)
    assert same(loaded, tensors(3)) and state == STATE


def test_a_group_without_tensors_comes_back_empty(tmp_path):
    loaded, _ = checkpoint.load(checkpoint.save(tmp_path, 0, {"student": tensors(0)["student"], "optimizer": {}}, {}))
    assert loaded["student"].keys() == tensors(0)["student"].keys() and not loaded.get("optimizer")


def test_the_newest_checkpoint_is_that_of_the_highest_step_whenever_it_was_written(tmp_path):
    assert checkpoint.newest(tmp_path) is None and checkpoint.newest(tmp_path / "nowhere") is None
    for step in (10, 9):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step})
    assert checkpoint.load(checkpoint.newest(tmp_path))[1] == {"step": 10}


@pytest.mark.parametrize("file", ["student.safetensors", "optimizer.safetensors", "state.msgpack"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name_with_the_cure(saved, file, kept):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: int(kept * len(whole))])
    assert f"{file} is damaged" in refusal(saved)


@pytest.mark.parametrize("file", ["student.safetensors", "optimizer.safetensors", "state.msgpack"])
def test_a_missing_file_is_refused_by_name_with_the_cure(saved, file):
    (saved / file).unlink()
    assert f"lacks {file}" in refusal(saved)


def test_a_single_flipped_bit_is_refused(saved):
    path = saved / "student.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "student.safetensors is damaged" in refusal(saved)


@pytest.mark.parametrize("text", [None, "", "{", "[]", json.dumps({"step": 3})])
def test_a_missing_or_unreadable_manifest_is_refused_by_name_with_the_cure(saved, text):
    manifest = saved / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    assert "manifest.json" in refusal(saved)


def test_after_the_cure_the_checkpoint_before_is_the_newest(tmp_path):
    good, bad = (checkpoint.save(tmp_path, step, tensors(step), STATE) for step in (1, 2))
    (bad / "state.msgpack").unlink()
    refusal(bad)
    shutil.rmtree(bad)
    assert checkpoint.newest(tmp_path) == good and same(checkpoint.load(good)[0], tensors(1))


@pytest.mark.parametrize("step", [4, 5])
def test_a_failed_save_leaves_the_last_good_checkpoint_and_the_next_save_succeeds(tmp_path, step):
    good = checkpoint.save(tmp_path, 4, tensors(4), STATE)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, step, tensors(5), {"no format has this": object()})
    assert checkpoint.newest(tmp_path) == good
    assert same(checkpoint.load(good)[0], tensors(4))
    again = checkpoint.save(tmp_path, step, tensors(5), STATE)
    assert checkpoint.newest(tmp_path) == again and same(checkpoint.load(again)[0], tensors(5))


def test_a_checkpoint_killed_in_the_middle_is_never_taken_for_one(tmp_path):
    good = checkpoint.save(tmp_path, 1, tensors(1), STATE)
    whole = checkpoint.save(tmp_path, 2, tensors(2), STATE)
    whole.rename(tmp_path / ".step_00000002.partial")
    (tmp_path / ".step_00000002.partial" / "manifest.json").unlink()
    assert checkpoint.newest(tmp_path) == good
    checkpoint.save(tmp_path, 2, tensors(7), STATE)
    assert same(checkpoint.load(checkpoint.newest(tmp_path))[0], tensors(7))


def test_the_newest_two_are_kept_and_nothing_else_is_left_behind(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, tensors(step), STATE, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000005"]


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, {**tensors(1), "more": tensors(2)["student"]}, STATE)
    path = checkpoint.save(tmp_path, 1, tensors(8), STATE)
    assert same(checkpoint.load(path)[0], tensors(8))
