import os
import re
import shutil
import threading
from concurrent import futures
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs.checkpoints import checkpoint, rank_files, stage_folder
from cluster.runs.checkpoints.checkpoint import DamagedCheckpoint
from cluster.runs.checkpoints.rank_files import RankLost
from cluster.runs.checkpoints.stage_folder import CheckpointNotWritten, StageFolder
from learner.lora import MergedTensors
from learner.optimizer import Optimizer
from learner.parallel import collectives
from learner.parallel.shard_files import OwnShards
from learner.parallel.sharding import full_tensor, local_shards
from learner.trained_network import FlatCopy
from models.errors import ConfigError
from tests.fakes.live_bytes import LiveBytes

TIMEOUT_S = 60


class Regression:
    """A small learner with all that a checkpoint has: weights, moments, a count, and draws that depend on the count."""

    def __init__(self, seed: int = 0, width: int = 3, sharded: bool = False):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.Linear(width, 2)
        if sharded:
            fully_shard(self.module, mesh=init_device_mesh("cpu", (collectives.size(),)))
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.optimizer = Optimizer("student", self.module, [optimizer], lr_key="x.lr", grad_clip=torch.inf)

    @property
    def step(self) -> int:
        return self.optimizer.updates

    def update(self) -> float:
        x = torch.randn(4, self.module.in_features, generator=torch.Generator().manual_seed(self.step))
        return self.optimizer.step([self.module(x).square().sum()])["student/loss"]

    def state(self):
        return {"student": self.module.state_dict(), "optimizer": self.optimizer.state()}, {"updates": self.step}

    def load_state(self, groups, state):
        groups["student"].read_into(self.module.state_dict())
        self.optimizer.load_state(groups["optimizer"], state["updates"])


def everything(learner: Regression) -> dict[str, torch.Tensor]:
    tensors, state = learner.state()
    flat = {f"{group}.{name}": full_tensor(t).clone() for group, named in tensors.items() for name, t in named.items()}
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
    calls = {
        "save": lambda: folder.save(learner, 2),
        "finish": lambda: folder.finish(MergedTensors({}), {}),
        "close": folder.close,
    }
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


def flip(path: Path, name: str = "student.safetensors") -> None:
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)


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

    with pytest.raises(ConfigError, match=r"^run_dir: .*optimizer .*bias/exp_avg, "):
        StageFolder(three).restore(Smaller())


def test_the_result_has_its_tensors_and_origin_and_a_finished_stage_is_judged_by_it_alone(three):
    folder = StageFolder(three, "teacher.safetensors")
    assert not folder.finished
    weights = trained(3).module.state_dict()
    folder.finish(MergedTensors(weights), {"seed": 4, "loss": 0.5})
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
    folder.finish(MergedTensors({"weight": torch.ones(2)}), {})
    folder.result.write_bytes(folder.result.read_bytes().replace(b"longtake.sha256", b"longtake.sha255"))
    with pytest.raises(ConfigError, match=r"^run_dir: .*checksum"):
        folder.verify()


def on_two_ranks(rank: int, laws, folder: Path) -> None:
    torch.set_num_threads(1)
    stage_folder._LINE_EVERY_S, stage_folder._SEEN_S, rank_files._PATIENCE_S = 0.2, 0.5, 1.0
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT_S)
    )
    for law in laws:
        law(rank, folder)
    distributed.destroy_process_group()


def each_rank_saves_its_shards_and_rank_0_the_rest(rank: int, folder: Path) -> None:
    learner = Regression(sharded=True)
    with StageFolder(folder / "saved") as stage:
        stage.save(learner, 0, supply(0))
        for step in (1, 2):
            learner.update()
            stage.save(learner, step, supply(step) if rank == 0 else None)
        stage.finish(MergedTensors(learner.module.state_dict()), {})
    assert same(load_file(folder / "saved/student.safetensors"), dict(MergedTensors(learner.module.state_dict())))
    if rank == 0:
        (folder / "in the way").touch()
    with pytest.raises(FileExistsError if rank == 0 else RuntimeError):
        StageFolder(folder / "in the way").finish(MergedTensors(learner.module.state_dict()), {})
    resumed = Regression(seed=9, sharded=True)
    tensors, position = StageFolder(folder / "saved").restore(resumed)
    assert same(everything(resumed), everything(learner)) and resumed.update() == learner.update()
    assert torch.equal(tensors["latents"], supply(2)[0]["latents"]) and position == supply(2)[1]


def all_restore_the_step_that_rank_0_chose(rank: int, folder: Path) -> None:
    """The newest whole one of rank 0 is of step 2, where it stands; rank 1 would find step 3."""
    learner, lines = Regression(seed=9, sharded=True), []
    restored = StageFolder(folder / f"restored/{rank}", say=lines.append).restore(learner)
    assert learner.step == 2 and same(everything(learner), everything(trained(2)))
    assert restored[1] == supply(2)[1] and len(lines) == (1 if rank == 0 else 0)


def damage_that_one_rank_finds_is_known_to_all(rank: int, folder: Path) -> None:
    lines, learner = [], Regression(seed=9, sharded=True)
    StageFolder(folder / "damaged", say=lines.append).restore(learner)
    assert learner.step == 1 and len(lines) == (1 if rank == 0 else 0)
    assert rank or "student-00002-of-00002.safetensors" in lines[0]


def a_failure_of_rank_0_stops_both(rank: int, folder: Path) -> None:
    stage, learner = StageFolder(folder / "restored/blocked", say=[].append), Regression()
    stage.save(learner, 1)
    with pytest.raises(CheckpointNotWritten if rank == 0 else RankLost):
        stage.save(learner, 2)
    other = StageFolder(folder / "restored/0", say=[].append)
    with pytest.raises(ConfigError):
        other.restore(Regression(width=5))


def a_failure_of_rank_1_stops_both_and_leaves_the_checkpoint_before(rank: int, folder: Path) -> None:
    stage, learner, write = StageFolder(folder / "failed", say=[].append), Regression(sharded=True), OwnShards.write
    stage.save(learner, 1)
    stage._drain()
    OwnShards.write = (lambda *_: (folder / "nowhere/x").touch()) if rank else write
    stage.save(learner, 2)
    with pytest.raises(RankLost if rank == 0 else CheckpointNotWritten):
        stage.finish(MergedTensors({}), {})
    OwnShards.write = write
    assert checkpoint.step_of(checkpoint.newest_valid(folder / "failed/checkpoints")[0]) == 1


def a_folder_that_one_rank_does_not_see_is_refused(rank: int, folder: Path) -> None:
    with pytest.raises(RuntimeError if rank == 0 else ConfigError):
        StageFolder(folder / ("saved" if rank == 0 else "elsewhere")).restore(Regression(sharded=True))


class AtOnce:
    """Runs what is submitted where it is submitted: a tracker of this thread sees it."""

    def submit(self, action, *arguments) -> futures.Future:
        done: futures.Future = futures.Future()
        try:
            done.set_result(action(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


class Deep(Regression):
    """Eight layers of 64 KB, each sharded by itself."""

    def __init__(self):
        super().__init__(width=128)
        self.module = nn.Sequential(*(nn.Linear(128, 128) for _ in range(8)))
        for layer in [*self.module, self.module]:
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=True)
        self.module.in_features = 128
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.optimizer = Optimizer("student", self.module, [optimizer], lr_key="x.lr", grad_clip=torch.inf)


def a_rank_holds_one_layer_beyond_its_shards(rank: int, folder: Path) -> None:
    """Measured: bytes of all tensors that saving, restoring and publishing make, at any one time."""
    learner, resumed, layer = Deep(), Deep(), 128 * 129 * 4
    learner.update()
    stage = StageFolder(folder / "measured")
    stage.pool = AtOnce()
    shards = sum(local.nbytes for group in learner.state()[0].values() for local in local_shards(group.values()))
    assert shards >= 3 * 8 * layer / 2
    with LiveBytes() as saving:
        stage.save(learner, 1)
    assert shards / 2 < saving.peak <= shards + layer, (saving.peak, shards, layer)
    with LiveBytes() as restoring:
        stage.restore(resumed)
    assert shards / 2 < restoring.peak <= shards * 2 / 3 + layer, (restoring.peak, shards, layer)
    assert same(everything(resumed), everything(learner))
    for dtype in (torch.bfloat16, torch.float32):
        weights = {f"blocks.{name}": tensor for name, tensor in learner.module.state_dict().items()}
        copy = FlatCopy(weights, dtype)
        with LiveBytes() as publishing:
            copy.of(weights)
        # Of eight layers: a shard, all shards side by side and their tensors are 2.5; a thread of Gloo may still hold
        # the shards of the layer before, 1.5 more.
        assert 0 < publishing.peak <= 4.25 * layer, (publishing.peak, layer)


def a_killed_rank_leaves_the_checkpoint_before(rank: int, folder: Path) -> None:
    """The last law: rank 1 ends in the middle of its file."""

    saved = threading.Event()

    def end(shards: OwnShards, path: Path) -> None:
        assert saved.wait(TIMEOUT_S), "the collectives of save come first"
        path.write_bytes(b"half")
        os._exit(0)

    stage, learner = StageFolder(folder / "killed", say=[].append), Regression(sharded=True)
    stage.save(learner, 1)
    stage._drain()
    if rank:
        OwnShards.write = end
    stage.save(learner, 2)
    saved.set()
    with pytest.raises(RankLost):
        stage.close()
    os._exit(0 if checkpoint.step_of(checkpoint.paths(folder / "killed/checkpoints")[-1]) == 1 else 1)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """What two ranks left, after all their laws in one pair of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    whole = folder / "restored/0"
    with StageFolder(whole, config=CheckpointConfig(keep=3)) as stage:
        for step in (1, 2, 3):
            stage.save(trained(step), step, supply(step))
    shutil.copytree(whole, folder / "restored/1")
    cut(whole / "checkpoints/step_00000003")
    (folder / "restored/blocked").mkdir()
    (folder / "restored/blocked/checkpoints").write_text("in the way")
    laws = [
        each_rank_saves_its_shards_and_rank_0_the_rest, all_restore_the_step_that_rank_0_chose, damage_the_shard,
        damage_that_one_rank_finds_is_known_to_all, a_failure_of_rank_0_stops_both,
        a_failure_of_rank_1_stops_both_and_leaves_the_checkpoint_before,
        a_folder_that_one_rank_does_not_see_is_refused, a_rank_holds_one_layer_beyond_its_shards,
        a_killed_rank_leaves_the_checkpoint_before,
    ]  # fmt: skip
    multiprocessing.spawn(on_two_ranks, args=(laws, folder), nprocs=2)
    return folder


def damage_the_shard(rank: int, folder: Path) -> None:
    if rank == 0:
        shutil.copytree(folder / "saved/checkpoints", folder / "damaged/checkpoints")
        flip(folder / "damaged/checkpoints/step_00000002", "student-00002-of-00002.safetensors")
    distributed.barrier()


def test_two_ranks_write_their_shards_and_restore_one_choice_and_a_failure_of_one_stops_both(two_ranks):
    """Each law is a function above; here is what they left."""
    files = {path.name for path in (two_ranks / "saved/checkpoints/step_00000002").iterdir()}
    shards = {f"{group}-0000{rank}-of-00002.safetensors" for group in ("student", "optimizer") for rank in (1, 2)}
    assert files == shards | {"supply.safetensors", "state.msgpack", "manifest.json"}
    sizes = {name: (two_ranks / "saved/checkpoints/step_00000002" / name).stat().st_size for name in shards}
    assert sizes["student-00001-of-00002.safetensors"] == sizes["student-00002-of-00002.safetensors"]


def test_one_rank_goes_on_from_the_shards_of_two(two_ranks):
    resumed = Regression(seed=9)
    tensors, position = StageFolder(two_ranks / "saved").restore(resumed)
    assert same(everything(resumed), everything(trained(2))) and position == supply(2)[1]
    assert torch.equal(tensors["latents"], supply(2)[0]["latents"])
