import re
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import distributed, multiprocessing, nn

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs import checkpoint, stage_folder
from cluster.runs.checkpoint import DamagedCheckpoint, dense_copies
from cluster.runs.stage_folder import CheckpointNotWritten, StageFolder
from models.errors import ConfigError

TIMEOUT_S = 60


class Regression:
    """A small learner with all that a checkpoint has: weights, moments, a count, and draws that depend on the count."""

    def __init__(self, seed: int = 0, width: int = 3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.Linear(width, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.step = 0

    def update(self) -> float:
        x = torch.randn(4, self.module.in_features, generator=torch.Generator().manual_seed(self.step))
        self.optimizer.zero_grad()
        loss = self.module(x).square().sum()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def state(self):
        moments = {
            f"{i}/{name}": value
            for i, entries in self.optimizer.state_dict()["state"].items()
            for name, value in entries.items()
        }
        tensors = {"student": self.module.state_dict(), "optimizer": moments}
        return {group: dense_copies(named) for group, named in tensors.items()}, {"updates": self.step}

    def load_state(self, tensors, state):
        self.module.load_state_dict(tensors["student"])
        fresh = self.optimizer.state_dict()
        for path, value in tensors["optimizer"].items():
            place, name = path.split("/")
            fresh["state"].setdefault(int(place), {})[name] = value.clone()
        self.optimizer.load_state_dict(fresh)
        self.step = state["updates"]


class Rank(Regression):
    """What a rank of several is to a checkpoint: only rank 0 has contents."""

    def state(self):
        tensors, state = super().state()
        return (tensors, state) if distributed.get_rank() == 0 else ({group: {} for group in tensors}, {})


def everything(learner: Regression) -> dict[str, torch.Tensor]:
    tensors, state = learner.state()
    flat = {f"{group}.{name}": t.clone() for group, named in tensors.items() for name, t in named.items()}
    return flat | {"updates": torch.tensor(state["updates"])}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def trained(updates: int, seed: int = 0) -> Regression:
    learner = Regression(seed)
    for _ in range(updates):
        learner.update()
    return learner


def supply(number: int):
    return {"latents": torch.full((2,), float(number))}, {"next_rollout": number, "starts": {0: 1}}


@pytest.fixture
def three(tmp_path) -> Path:
    """A stage with checkpoints of one, two and three updates."""
    with StageFolder(tmp_path, config=CheckpointConfig(keep=3)) as folder:
        for step in (1, 2, 3):
            folder.save(trained(step), step, supply(step))
    return tmp_path


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """Holds the real writer before its first byte, until it is set."""
    opened, write = threading.Event(), checkpoint.write

    def held(*arguments):
        assert opened.wait(TIMEOUT_S)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write", held)
    return opened


def test_four_updates_saved_and_restored_and_four_more_are_eight_bit_by_bit(tmp_path):
    whole, first, resumed = trained(0), trained(4), Regression(seed=9)
    log = [whole.update() for _ in range(8)]
    with StageFolder(tmp_path) as folder:
        folder.save(first, first.step, supply(48))
    tensors, position = StageFolder(tmp_path).restore(resumed)
    assert torch.equal(tensors["latents"], supply(48)[0]["latents"]) and position == supply(48)[1]
    assert [resumed.update() for _ in range(4)] == log[4:]
    assert same(everything(resumed), everything(whole))


def test_there_is_nothing_to_restore_at_the_start_and_an_empty_supply_where_none_was_saved(tmp_path):
    fresh = Regression()
    with StageFolder(tmp_path) as folder:
        assert folder.restore(fresh) is None and same(everything(fresh), everything(Regression()))
        folder.save(fresh, 0)
        folder.close()
        assert folder.restore(fresh) == ({}, {})


def test_a_save_returns_before_anything_is_written_and_keeps_what_was_there_when_it_was_called(tmp_path, gate):
    learner, wanted = trained(2), everything(trained(2))
    waiting, position = supply(5)
    with StageFolder(tmp_path) as folder:
        folder.save(learner, 2, (waiting, position))
        assert not checkpoint.paths(tmp_path / "checkpoints")
        learner.update()
        waiting["latents"].fill_(-1)
        position["starts"][0] = -1
        gate.set()
    resumed = Regression(seed=9)
    tensors, state = StageFolder(tmp_path).restore(resumed)
    assert same(everything(resumed), wanted)
    assert torch.equal(tensors["latents"], supply(5)[0]["latents"]) and state == supply(5)[1]


def test_a_second_save_waits_for_the_first_and_says_so_and_the_wait_is_counted(tmp_path, gate, monkeypatch):
    monkeypatch.setattr(stage_folder, "_LINE_EVERY_S", 0.01)
    waits, lines = threading.Event(), []

    def say(line):
        lines.append(line)
        waits.set()

    folder, learner = StageFolder(tmp_path, say=say), trained(1)
    folder.save(learner, 1)
    waited_s = folder.waited_s
    second = threading.Thread(target=folder.save, args=(learner, 2))
    second.start()
    assert waits.wait(TIMEOUT_S) and second.is_alive()
    gate.set()
    second.join(TIMEOUT_S)
    folder.close()
    assert "step_00000001" in lines[0] and folder.waited_s > waited_s
    assert checkpoint.step_of(checkpoint.newest_valid(tmp_path / "checkpoints")[0]) == 2


def test_a_synchronous_save_has_written_when_it_returns(tmp_path):
    StageFolder(tmp_path, config=CheckpointConfig(asynchronous=False)).save(trained(1), 1)
    assert checkpoint.newest_valid(tmp_path / "checkpoints")[0].name == "step_00000001"


@pytest.mark.parametrize("step", [{}, {"keep_every": 2}])
def test_the_config_says_which_checkpoints_stay(tmp_path, step):
    with StageFolder(tmp_path, config=CheckpointConfig(every=1, keep=1, **step)) as folder:
        for updates in range(1, 6):
            folder.save(trained(updates), updates)
    kept = [5] if not step else [2, 4, 5]
    assert [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").iterdir())] == kept


@pytest.mark.parametrize("following", ["save", "finish", "close"])
def test_a_failure_of_the_writer_is_said_and_raised_by_whatever_comes_next_and_then_training_can_go_on(
    tmp_path, following
):
    lines, learner = [], trained(1)
    folder = StageFolder(tmp_path, say=lines.append)
    (tmp_path / "checkpoints").write_text("in the way")
    folder.save(learner, 1)
    calls = {"save": lambda: folder.save(learner, 2), "finish": lambda: folder.finish({}, {}), "close": folder.close}
    with pytest.raises(CheckpointNotWritten, match=r"step_00000001 .*checkpoints") as caught:
        calls[following]()
    assert lines == [str(caught.value)] and "\n" not in lines[0] and not folder.finished
    (tmp_path / "checkpoints").unlink()
    folder.save(learner, 2)
    folder.close()
    assert StageFolder(tmp_path).restore(Regression()) == ({}, {})


def test_a_failure_of_a_synchronous_save_is_raised_by_itself(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointNotWritten, match="step_00000001"):
        StageFolder(tmp_path, config=CheckpointConfig(asynchronous=False)).save(trained(1), 1)


def test_leaving_the_context_by_an_exception_still_completes_the_write(tmp_path, gate):
    folder = StageFolder(tmp_path)
    with pytest.raises(KeyError), folder:
        folder.save(trained(1), 1)
        gate.set()
        raise KeyError
    assert checkpoint.newest_valid(tmp_path / "checkpoints")[0].name == "step_00000001"


def flip(path: Path) -> None:
    content = bytearray((path / "student.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "student.safetensors").write_bytes(content)


def cut(path: Path) -> None:
    (path / "state.msgpack").write_bytes((path / "state.msgpack").read_bytes()[:-1])


DAMAGES = {
    "student.safetensors is damaged": flip,
    "state.msgpack is damaged": cut,
    "lacks optimizer.safetensors": lambda path: (path / "optimizer.safetensors").unlink(),
    "lacks supply.safetensors": lambda path: (path / "supply.safetensors").unlink(),
    "no readable manifest.json": lambda path: (path / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_newest_checkpoint_is_moved_aside_and_said_and_the_one_before_is_taken(three, reason):
    lines, checkpoints, resumed = [], three / "checkpoints", Regression(seed=9)
    DAMAGES[reason](checkpoints / "step_00000003")
    left = sorted(path.name for path in (checkpoints / "step_00000003").iterdir())
    StageFolder(three, say=lines.append).verify()
    assert len(lines) == 1 and reason in lines[0] and (checkpoints / "step_00000003").is_dir()
    folder = StageFolder(three, say=lines.append)
    assert folder.restore(resumed)[1] == supply(2)[1] and same(everything(resumed), everything(trained(2)))
    assert len(lines) == 2 and all(word in lines[1] for word in (reason, str(checkpoints), "step_00000002"))
    assert sorted(path.name for path in (checkpoints / ".step_00000003.damaged").iterdir()) == left
    folder.restore(resumed)
    assert len(lines) == 2, "it is not found again"


def test_a_run_killed_while_it_replaced_its_only_checkpoint_goes_on_from_that(tmp_path):
    with StageFolder(tmp_path) as folder:
        folder.save(trained(2), 2)
    (tmp_path / "checkpoints/step_00000002").rename(tmp_path / "checkpoints/.step_00000002.replaced")
    resumed = Regression(seed=9)
    assert StageFolder(tmp_path).restore(resumed) == ({}, {}) and same(everything(resumed), everything(trained(2)))


def test_damage_reaches_the_terminal_through_the_log_unless_told_otherwise(three, caplog):
    cut(three / "checkpoints/step_00000003")
    StageFolder(three).restore(Regression())
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "step_00000003" in caplog.text


def test_where_all_checkpoints_are_damaged_the_stage_is_refused_and_never_begun_again_unasked(three):
    for path in (three / "checkpoints").iterdir():
        cut(path)
    before, fresh = sorted((three / "checkpoints").iterdir()), Regression()
    for refused in (lambda: StageFolder(three).restore(fresh), StageFolder(three).verify):
        with pytest.raises(DamagedCheckpoint, match=r"^run_dir: ") as one:
            refused()
        assert "\n" not in str(one.value)
    assert sorted((three / "checkpoints").iterdir()) == before and same(everything(fresh), everything(Regression()))


class Renamed(Regression):
    """A model with a group of another name."""

    def state(self):
        tensors, state = super().state()
        return {"critic": tensors["student"], "optimizer": tensors["optimizer"]}, state


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: Regression(width=4), "student .*weight"),
        (lambda: Renamed(), "critic .*bias, weight"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name_before_a_weight_is_changed(three, other, named):
    learner = other()
    before = everything(learner)
    with pytest.raises(ConfigError) as caught:
        StageFolder(three).restore(learner)
    assert caught.value.key == "run_dir" and re.search(rf"step_00000003 .*{named}", caught.value.problem)
    assert same(everything(learner), before) and "\n" not in str(caught.value)


def test_a_group_that_the_model_does_not_have_is_refused_by_name(three):
    class Smaller(Regression):
        def state(self):
            tensors, state = super().state()
            return {"student": tensors["student"]}, state

    with pytest.raises(ConfigError, match=r"^run_dir: .*optimizer .*0/exp_avg, "):
        StageFolder(three).restore(Smaller())


def test_the_result_has_its_tensors_and_origin_and_a_finished_stage_is_judged_by_it_alone(three):
    folder = StageFolder(three, "teacher.safetensors")
    assert not folder.finished
    weights = trained(3).module.state_dict()
    folder.finish(weights, {"seed": 4, "loss": 0.5})
    assert folder.finished and folder.result == three / "teacher.safetensors"
    with safe_open(folder.result, "pt") as file:
        assert (
            same(load_file(folder.result), weights) and {"seed": "4", "loss": "0.5"}.items() <= file.metadata().items()
        )
    for path in (three / "checkpoints").iterdir():
        cut(path)
    folder.verify()
    content = bytearray(folder.result.read_bytes())
    content[-1] ^= 1
    folder.result.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        folder.verify()
    assert error.value.key == "run_dir" and "teacher.safetensors" in error.value.problem


def test_a_result_that_has_lost_its_checksum_is_refused(tmp_path):
    folder = StageFolder(tmp_path)
    folder.finish({"weight": torch.ones(2)}, {})
    folder.result.write_bytes(folder.result.read_bytes().replace(b"longtake.sha256", b"longtake.sha255"))
    with pytest.raises(ConfigError, match=r"^run_dir: .*checksum"):
        folder.verify()


def on_two_ranks(rank: int, law, folder: Path) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT_S)
    )
    law(rank, folder)
    distributed.destroy_process_group()


def rank_0_saves_and_finishes(rank: int, folder: Path) -> None:
    """Each rank is given a place of its own, so that it shows who writes there."""
    own = folder / str(rank)
    learner = Rank()
    learner.update()
    with StageFolder(own) as stage:
        stage.save(learner, 1, supply(1))
        stage.save(learner, 2, supply(2) if rank == 0 else None)
        stage.finish(learner.module.state_dict() if rank == 0 else {}, {})
    assert (folder / "0/student.safetensors").is_file(), "no rank goes on before the result is there"
    assert own.exists() == (rank == 0)


def all_restore_the_step_that_rank_0_chose(rank: int, folder: Path) -> None:
    """The newest whole one of rank 0 is of step 2, where it stands; rank 1 would find step 3."""
    learner, lines = Rank(seed=9), []
    restored = StageFolder(folder / str(rank), say=lines.append).restore(learner)
    assert learner.step == 2 and same(dict(learner.module.state_dict()), dict(trained(2).module.state_dict()))
    assert restored[1] == supply(2)[1] and len(lines) == (1 if rank == 0 else 0)


def a_failure_of_rank_0_stops_both(rank: int, folder: Path) -> None:
    stage, learner = StageFolder(folder / "blocked", say=[].append), Rank()
    stage.save(learner, 1)
    with pytest.raises(CheckpointNotWritten if rank == 0 else RuntimeError, match=r"not written|rank 0 failed"):
        stage.save(learner, 2)
    other = StageFolder(folder / "0", say=[].append)
    with pytest.raises(ConfigError) if rank == 0 else pytest.raises(RuntimeError, match="rank 0"):
        other.restore(Rank(width=5))


def all_laws_of_ranks(rank: int, folder: Path) -> None:
    rank_0_saves_and_finishes(rank, folder / "saved")
    all_restore_the_step_that_rank_0_chose(rank, folder / "restored")
    a_failure_of_rank_0_stops_both(rank, folder / "restored")


def test_of_two_ranks_only_rank_0_writes_both_restore_its_choice_and_its_failure_stops_both(tmp_path, three):
    (tmp_path / "saved").mkdir()
    for rank in range(2):
        shutil.copytree(three / "checkpoints", tmp_path / f"restored/{rank}/checkpoints")
    cut(tmp_path / "restored/0/checkpoints/step_00000003")
    (tmp_path / "restored/blocked").mkdir()
    (tmp_path / "restored/blocked/checkpoints").write_text("in the way")
    multiprocessing.spawn(on_two_ranks, args=(all_laws_of_ranks, tmp_path), nprocs=2)
