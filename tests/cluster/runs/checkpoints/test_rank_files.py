import threading
from pathlib import Path

import pytest
import torch

from cluster.runs.checkpoints import checkpoint, rank_files
from cluster.runs.checkpoints.checkpoint import Snapshot
from cluster.runs.checkpoints.rank_files import RankFiles, RankLost
from learner.parallel.shard_files import OwnShards

TIMEOUT_S = 60


def part(rank: int, mark: int = 0) -> Snapshot:
    shards = {f"student-0000{rank + 1}-of-00002": OwnShards.of({f"w{rank}": torch.full((3,), float(rank))})}
    return Snapshot.of(5, shards, {"learner": {}}, mark)


def written_by_rank_1(folder: Path, files: RankFiles, snapshot: Snapshot) -> tuple[threading.Thread, list[RankLost]]:
    failures: list[RankLost] = []

    def work() -> None:
        try:
            files.write(folder, snapshot)
        except RankLost as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, failures


def test_a_checkpoint_has_the_files_of_both_ranks_in_its_manifest_and_no_receipts(tmp_path):
    thread, failures = written_by_rank_1(tmp_path, RankFiles(1, 2), part(1))
    path = checkpoint.write(tmp_path, part(0), 2, None, RankFiles(0, 2).of_others)
    thread.join(TIMEOUT_S)
    assert not failures
    checkpoint.verify(path)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json", "state.msgpack", "student-00001-of-00002.safetensors", "student-00002-of-00002.safetensors",
    ]  # fmt: skip
    read = checkpoint.read(path)[0]["student"].read()
    assert read["w0"].tolist() == [0] * 3 and read["w1"].tolist() == [1] * 3


def test_each_rank_verifies_its_own_files_and_rank_0_the_rest(tmp_path):
    thread, _ = written_by_rank_1(tmp_path, RankFiles(1, 2), part(1))
    path = checkpoint.write(tmp_path, part(0), 2, None, RankFiles(0, 2).of_others)
    thread.join(TIMEOUT_S)
    (path / "student-00002-of-00002.safetensors").unlink()
    checkpoint.verify(path, 0, 2)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"student-00002"):
        checkpoint.verify(path, 1, 2)
    (path / "state.msgpack").unlink()
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"state\.msgpack"):
        checkpoint.verify(path, 0, 2)


def test_a_rank_that_does_not_write_is_given_up_and_the_checkpoint_gets_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_files, "_PATIENCE_S", 0.3)
    with pytest.raises(RankLost, match=r"\brank 1\b"):
        checkpoint.write(tmp_path, part(0), 2, None, RankFiles(0, 2).of_others)
    assert not checkpoint.paths(tmp_path)
    checkpoint.write(tmp_path, part(0), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


def test_a_rank_waits_for_the_folder_of_its_own_attempt_until_another_rank_has_failed(tmp_path):
    files = RankFiles(1, 2)
    part(0, mark=7).partial(tmp_path).mkdir()
    thread, failures = written_by_rank_1(tmp_path, files, part(1, mark=8))
    files.abandoned.set()
    thread.join(TIMEOUT_S)
    assert [type(error) for error in failures] == [RankLost]
    assert not list(part(0, mark=7).partial(tmp_path).iterdir())
