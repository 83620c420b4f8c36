import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs.checkpoints import checkpoint
from cluster.runs.checkpoints.checkpoint import DamagedCheckpoint, Snapshot
from learner.parallel.shard_files import OwnShards
from models.errors import ConfigError

STATE = {"learner": {"student": 3}, "supply": {"next_rollout": 48, "starts": {0: 2, 12: 5}, "plans": [[1, "student"]]}}


def tensors(seed: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "student": {
            "blocks.0.weight": torch.randn(4, 3, generator=generator),
            "bias": torch.randn(3, generator=generator).bfloat16(),
        },
        "optimizer": {"bias/step": torch.tensor(float(seed)), "bias/exp_avg": torch.randn(3, generator=generator)},
    }


def snapshot(step: int, given: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Snapshot:
    return Snapshot.of(step, {group: OwnShards.of(named) for group, named in given.items()}, state)


def save(folder: Path, step: int, seed: int | None = None, keep: int = 2, keep_every: int | None = None) -> Path:
    return checkpoint.write(folder, snapshot(step, tensors(step if seed is None else seed), STATE), keep, keep_every)


def loaded(path: Path) -> dict[str, dict[str, Tensor]]:
    return {group: files.read() for group, files in checkpoint.read(path)[0].items()}


def holds(path: Path, seed: int) -> bool:
    """Whether the checkpoint gives back bit by bit what `tensors(seed)` and STATE are."""
    found, wanted = loaded(path), tensors(seed)
    return (
        checkpoint.read(path)[1] == STATE
        and found.keys() == wanted.keys()
        and all(
            found[group].keys() == wanted[group].keys()
            and all(torch.equal(found[group][name], wanted[group][name]) for name in wanted[group])
            for group in wanted
        )
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(DamagedCheckpoint) as caught:
        checkpoint.verify(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.fixture
def saved(tmp_path) -> Path:
    return save(tmp_path, 3)


def test_a_checkpoint_gives_back_bit_by_bit_what_was_saved(saved):
    checkpoint.verify(saved)
    assert holds(saved, 3) and checkpoint.step_of(saved) == 3


def test_a_group_without_tensors_comes_back_empty(tmp_path):
    given = {"student": tensors(0)["student"], "optimizer": {}}
    found = loaded(checkpoint.write(tmp_path, snapshot(0, given, {}), 2))
    assert found["student"].keys() == tensors(0)["student"].keys() and found["optimizer"] == {}


def test_a_view_and_tied_weights_are_saved_as_what_they_show(tmp_path):
    square = torch.arange(6.0).reshape(2, 3)
    views = {"one": square.T, "tied": square, "row": square[1], "none": torch.empty(0, 4)}
    found = loaded(checkpoint.write(tmp_path, snapshot(0, {"student": views}, {}), 2))["student"]
    assert torch.equal(found["one"], square.T) and torch.equal(found["tied"], square)
    assert torch.equal(found["row"], square[1]) and found["none"].shape == (0, 4)


def test_a_snapshot_keeps_the_state_as_it_was_and_holds_no_second_copy_of_the_tensors():
    parts, state = {"student": OwnShards.of(tensors(1)["student"])}, {"counts": [1]}
    kept = Snapshot.of(1, parts, state)
    state["counts"].append(2)
    assert kept.state == Snapshot.of(1, {}, {"counts": [1]}).state
    assert kept.parts["student"].tensors is parts["student"].tensors


def test_own_shards_are_out_of_reach_of_the_tensors_that_they_were_taken_from():
    whole = torch.arange(12.0).view(3, 4)
    copies = OwnShards.of({"whole": whole, "turned": whole.T}).tensors
    whole.fill_(7)
    assert torch.equal(copies["turned"], copies["whole"].T) and copies["whole"][0, 1] == 1
    assert copies["turned"].is_contiguous()


@pytest.mark.parametrize("state", [{"no format has this": object()}, {"too long": 1 << 70}, {(1, 2): "no key"}])
def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_saved(state):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Snapshot.of(0, {}, state)


def test_the_newest_checkpoint_is_that_of_the_highest_step_whenever_it_was_written(tmp_path):
    assert not checkpoint.paths(tmp_path) and not checkpoint.paths(tmp_path / "nowhere")
    assert checkpoint.newest_valid(tmp_path / "nowhere") == (None, {})
    for step in (100_000_000, 99_999_999, 9):
        save(tmp_path, step, keep=3)
    assert checkpoint.step_of(checkpoint.paths(tmp_path)[-1]) == 100_000_000
    (tmp_path / "step_00000011_mine").mkdir()
    assert checkpoint.newest_valid(tmp_path) == (checkpoint.paths(tmp_path)[-1], {})


@pytest.mark.parametrize("file", ["student.safetensors", "optimizer.safetensors", "state.msgpack"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(saved, file, kept):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: int(kept * len(whole))])
    assert file in refusal(saved)


@pytest.mark.parametrize("file", ["student.safetensors", "optimizer.safetensors", "state.msgpack"])
def test_a_missing_file_is_refused_by_name(saved, file):
    (saved / file).unlink()
    assert f"lacks {file}" in refusal(saved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("whole"), 3)


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), file=st.integers(0, 3))
def test_a_flipped_bit_in_any_file_is_noticed_or_changes_nothing(whole, share, bit, file):
    path = sorted(whole.iterdir())[file]
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(share * len(content))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        try:
            checkpoint.verify(whole)
        except DamagedCheckpoint as error:
            assert "\n" not in str(error)
        else:
            assert path.name == "manifest.json" and holds(whole, 3)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("text", [None, "", "{", "[]", json.dumps({"step": 3}), '{"sha256": 3}'])
def test_a_missing_or_unreadable_manifest_is_refused_by_name(saved, text):
    manifest = saved / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    assert "manifest.json" in refusal(saved)


def test_the_newest_valid_one_is_found_with_the_reasons_against_those_after_it_and_nothing_is_touched(tmp_path):
    good, cut, bare = (save(tmp_path, step, keep=4) for step in (2, 3, 4))
    (cut / "state.msgpack").write_bytes(b"")
    (bare / "manifest.json").unlink()
    before = names(tmp_path)
    found, damaged = checkpoint.newest_valid(tmp_path)
    assert found == good and list(damaged) == [bare, cut]
    assert "manifest.json" in str(damaged[bare]) and "state.msgpack" in str(damaged[cut])
    assert names(tmp_path) == before


def test_where_none_is_whole_all_are_named_in_one_line_with_the_cure(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / "state.msgpack").unlink()
    with pytest.raises(DamagedCheckpoint) as caught:
        checkpoint.newest_valid(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "step_00000001" in message and "step_00000002" in message
    assert f" {tmp_path} " in message.partition("step_00000001")[2], "what to move away"


def test_one_set_aside_is_not_found_again_not_deleted_and_not_overwritten(tmp_path):
    for seed in (5, 6):
        aside = checkpoint.set_aside(save(tmp_path, 3, seed))
        assert not checkpoint.paths(tmp_path) and holds(aside, seed)
    save(tmp_path, 4)
    assert names(tmp_path) == [".step_00000003.damaged", ".step_00000003.damaged-2", "step_00000004"]


def test_a_failed_write_leaves_the_last_good_checkpoint_and_the_next_write_succeeds(tmp_path):
    good = save(tmp_path, 4)
    with pytest.raises(SafetensorError):
        checkpoint.write(tmp_path, Snapshot(5, {"no/folder": OwnShards.of({})}, b""), keep=2)
    assert checkpoint.newest_valid(tmp_path) == (good, {}) and holds(good, 4)
    assert holds(save(tmp_path, 5), 5) and names(tmp_path) == ["step_00000004", "step_00000005"]


def test_what_a_killed_writer_left_is_never_taken_for_a_checkpoint_and_the_next_write_clears_it(tmp_path):
    good = save(tmp_path, 1)
    for left in (".step_00000002.partial", ".step_00000000.removed"):
        shutil.copytree(good, tmp_path / left)
    assert checkpoint.newest_valid(tmp_path) == (good, {})
    save(tmp_path, 2, seed=7)
    assert holds(checkpoint.paths(tmp_path)[-1], 7) and names(tmp_path) == ["step_00000001", "step_00000002"]


def test_a_checkpoint_that_was_about_to_be_replaced_is_put_back(tmp_path):
    save(tmp_path, 1).rename(tmp_path / ".step_00000001.replaced")
    checkpoint.tidy(tmp_path)
    assert names(tmp_path) == ["step_00000001"] and holds(checkpoint.paths(tmp_path)[-1], 1)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    assert holds(save(tmp_path, 1, seed=8), 8) and names(tmp_path) == ["step_00000001"]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    keep=st.integers(1, 3),
    keep_every=st.none() | st.integers(1, 7),
)
def test_the_newest_stay_and_every_nth_stays_for_ever(tmp_path_factory, steps, keep, keep_every):
    folder = tmp_path_factory.mktemp("kept")
    there: set[int] = set()
    for step in steps:
        checkpoint.write(folder, Snapshot(step, {}, b""), keep, keep_every)
        there = {
            one
            for one in there | {step}
            if sum(other > one for other in there | {step}) < keep or (keep_every is not None and one % keep_every == 0)
        }
        assert names(folder) == [f"step_{one:08d}" for one in sorted(there)]
    shutil.rmtree(folder)


def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    flushed: dict[str, int] = {}
    sync, rename = os.fsync, os.replace

    def seen(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed[path.name] = path.stat().st_mtime_ns
        sync(descriptor)

    def renamed(source, target):
        if Path(target).name == "step_00000003":
            written = {path.name: path.stat().st_mtime_ns for path in [*Path(source).iterdir(), Path(source)]}
            assert flushed == written and "manifest.json" in written
            flushed.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "replace", renamed)
    save(tmp_path, 3)
    assert list(flushed) == [tmp_path.name], "and then the name itself"


@pytest.mark.parametrize(
    "change", [{"every": 0}, {"keep": 0}, {"keep_every": 0}, {"keep_every": -25}, {"every": 20, "keep_every": 50}]
)
def test_a_config_that_would_keep_nothing_is_refused_by_key(change):
    with pytest.raises(ConfigError) as caught:
        CheckpointConfig(**change)
    assert caught.value.key == f"checkpoint.{list(change)[-1]}"
    assert CheckpointConfig(every=25, keep_every=100).keep_every == 100
