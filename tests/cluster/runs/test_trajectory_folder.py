import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.runs.trajectory_folder import OWN, TrajectoriesFailed, TrajectoryFolder, find_given, find_own, read_index
from cluster.runs.trajectory_index import INDEX, decode, shard_path
from tests.cluster.runs.trajectories import kept_in, origin, straight

ROOT = Path(__file__).parents[3]
COUNT = 10
NUMBERS = range(COUNT)


def assert_same(found, wanted):
    assert (found.rollout, found.prompt, found.seed) == (wanted.rollout, wanted.prompt, wanted.seed)
    for name in ("states", "latents"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), (name, wanted.rollout)


def fill(path, per_shard=3, order=NUMBERS):
    """All ten, in the order given."""
    with kept_in(path, order, per_shard) as kept:
        kept.add([straight(COUNT)[number] for number in order])


def contents(path):
    """By number: everything that is kept of a trajectory."""
    kept = kept_in(path, NUMBERS, 3)
    assert len(kept) == COUNT
    return {pair.rollout: pair for pair in kept}


def files(path):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}


@pytest.mark.parametrize("per_shard", [1, 3, 10, 99])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trajectories_come_back_bit_by_bit_from_memory_and_from_disk(tmp_path, per_shard, dtype):
    wanted = [
        replace(p, states=p.states.to(getattr(torch, dtype)), latents=p.latents.to(getattr(torch, dtype)))
        for p in straight(COUNT)
    ]
    with kept_in(tmp_path / "pairs", NUMBERS, per_shard, origin(dtype=dtype)) as kept:
        for i, pair in enumerate(straight(COUNT)):
            kept.add([pair])
            assert len(kept) == i + 1
            for found, asked in zip(kept, wanted, strict=False):
                assert_same(found, asked)
    again = kept_in(tmp_path / "pairs", NUMBERS, per_shard, origin(dtype=dtype))
    assert len(again) == COUNT and sorted(again.entries) == list(NUMBERS) and not again.unwritten
    for found, asked in zip(again, wanted, strict=True):
        assert_same(found, asked)


def test_no_file_holds_more_than_a_shard_and_what_is_no_shard_yet_waits_in_memory(tmp_path):
    kept = kept_in(tmp_path, NUMBERS, 4)
    for pair in straight(COUNT):
        kept.add([pair])
        assert len(kept.unwritten) < 4
    kept.write()
    index, _ = decode((tmp_path / INDEX).read_bytes())
    assert [len(shard.pairs) for shard in index.shards.values()] == [4, 4, 2]
    assert {shard.size for shard in index.shards.values()} == {f.stat().st_size for f in tmp_path.glob("shard_*")}


def test_the_order_is_the_one_given_whatever_the_order_of_arrival_and_ends_at_the_first_that_is_missing(tmp_path):
    draw = random.Random(0)
    order, coming = draw.sample(NUMBERS, COUNT), draw.sample(straight(COUNT), COUNT)
    kept, there = kept_in(tmp_path, order, 3), set()
    for pair in coming:
        kept.add([pair])
        there.add(pair.rollout)
        beginning = next((i for i, number in enumerate(order) if number not in there), COUNT)
        assert [found.rollout for found in kept] == order[:beginning]
        with pytest.raises(IndexError):
            kept[beginning]


def test_a_trajectory_never_comes_twice(tmp_path):
    kept = kept_in(tmp_path, NUMBERS, 2)
    kept.add(straight(3))
    for again in (0, 2):  # one is on disk, the other waits
        with pytest.raises(AssertionError, match=rf"\b{again}\b"):
            kept.add([straight(3)[again]])


def test_an_error_inside_the_context_is_not_followed_by_a_write(tmp_path):
    with pytest.raises(KeyboardInterrupt), kept_in(tmp_path, NUMBERS, 3) as kept:
        kept.add(straight(5))
        raise KeyboardInterrupt
    assert sorted(kept_in(tmp_path, NUMBERS, 3).entries) == [0, 1, 2]


def test_a_resumed_run_makes_the_missing_ones_only_and_ends_with_the_content_of_one_that_was_not_stopped(tmp_path):
    fill(tmp_path / "whole")
    for path, pairs in ((tmp_path / "cut", straight(COUNT)[:7]), (tmp_path / "cut", straight(COUNT))):
        kept = kept_in(path, NUMBERS, 3)
        kept.add([pair for pair in pairs if pair.rollout not in kept.entries])
    kept.write()
    assert len(kept.entries) == len({(entry.shard, entry.position) for entry in kept.entries.values()}) == COUNT
    whole = contents(tmp_path / "whole")
    for number, pair in contents(tmp_path / "cut").items():
        assert_same(pair, whole[number])


def cut_shard(path):
    file = shard_path(path, 1)
    file.write_bytes(file.read_bytes()[:-1])


def lose_shard(path):
    shard_path(path, 1).unlink()


def tear_index(path):
    (path / INDEX).write_bytes((path / INDEX).read_bytes()[:-5])


@pytest.mark.parametrize(
    ("harm", "said", "lost"),
    [
        (cut_shard, r"shard_000001\.safetensors .*\d+ bytes .*\b3 trajectories", 3),
        (lose_shard, r"shard_000001\.safetensors .*\b3 trajectories", 3),
        (tear_index, r"index\.msgpack", 1),
    ],
)
def test_damage_is_said_and_what_is_lost_is_made_again_and_only_that(tmp_path, harm, said, lost):
    fill(tmp_path / "whole")
    fill(tmp_path / "harmed")
    harm(tmp_path / "harmed")
    lines = []
    kept = kept_in(tmp_path / "harmed", NUMBERS, 3, say=lines.append)
    assert any(re.search(said, line) for line in lines), lines
    assert len(kept.entries) == COUNT - lost
    kept.add([pair for pair in straight(COUNT) if pair.rollout not in kept.entries])
    kept.write()
    whole = contents(tmp_path / "whole")
    for number, pair in contents(tmp_path / "harmed").items():
        assert_same(pair, whole[number])


def test_a_shard_changed_in_one_byte_is_noticed_when_it_is_read_and_named(tmp_path):
    fill(tmp_path)
    file = shard_path(tmp_path, 1)
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    kept = kept_in(tmp_path, NUMBERS, 3)
    assert_same(kept[4], straight(COUNT)[4])
    with pytest.raises(TrajectoriesFailed, match=r"shard_000001\.safetensors .*trajectory 5\b") as caught:
        kept[5]
    assert "\n" not in str(caught.value)
    file.unlink()
    assert sorted(kept_in(tmp_path, NUMBERS, 3).entries) == [0, 1, 2, 6, 7, 8, 9], "as the message says"


def test_a_shard_that_is_gone_while_the_run_goes_on_is_named(tmp_path):
    fill(tmp_path)
    kept = kept_in(tmp_path, NUMBERS, 3)
    shard_path(tmp_path, 2).write_bytes(b"junk")
    with pytest.raises(TrajectoriesFailed, match=r"shard_000002\.safetensors"):
        kept[6]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"teacher": "fedcba9876543210"}, "teacher"),
        ({"guidance": 6.0}, "ode.guidance"),
        ({"shift": 5.0}, "student.shift"),
        ({"solver_steps": 48}, "ode.solver_steps"),
        ({"dtype": "bfloat16"}, "ode.dtype"),
        ({"negative_prompt": "blurred"}, "prompt.negative"),
    ],
)
def test_trajectories_of_another_teacher_or_setting_are_refused_in_one_line_and_left_alone(tmp_path, changes, key):
    fill(tmp_path)
    before, other = files(tmp_path), replace(origin(), **changes)
    asked = {
        "run_dir": lambda: find_own(tmp_path, other),
        "run_dir: ": lambda: read_index(tmp_path, other, *OWN),
        "ode.pairs_dir": lambda: find_given(tmp_path, other, NUMBERS, "ode.pairs_dir"),
    }
    (changed,) = changes
    for named, ask in asked.items():
        with pytest.raises(ValueError) as caught:
            ask()
        assert str(caught.value).startswith(named) and all(
            fact in str(caught.value) for fact in (key, str(getattr(origin(), changed)), str(changes[changed]))
        )
        assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_folder_whose_index_does_not_say_what_made_it_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / INDEX).write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"^run_dir: .*index\.msgpack"):
        find_own(tmp_path, origin())


def test_trajectories_of_another_run_are_only_read(tmp_path):
    fill(tmp_path)
    before = files(tmp_path)
    with TrajectoryFolder(
        tmp_path, [7, 2, 9], 1, lambda: find_given(tmp_path, origin(), [7, 2, 9], "ode.pairs_dir")
    ) as kept:
        assert [pair.rollout for pair in kept] == [7, 2, 9]
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / INDEX).unlink(), ""),
        (cut_shard, r"shard_000001\.safetensors.* bytes"),
        (tear_index, r"index\.msgpack"),
        (lambda path: None, r"\b2\b.*\b12\b"),
    ],
)
def test_another_runs_folder_that_is_not_whole_is_refused_in_one_line_and_left_alone(tmp_path, harm, said):
    fill(tmp_path)
    harm(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=rf"^ode\.pairs_dir.*{said}"):
        find_given(tmp_path, origin(), range(12), "ode.pairs_dir")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", [".shard_000000.safetensors.partial", ".index.msgpack.partial"])
def test_what_cannot_be_written_is_said_in_one_line_and_is_not_lost(tmp_path, name):
    kept = kept_in(tmp_path, NUMBERS, 3)
    (tmp_path / name).mkdir()
    with pytest.raises(TrajectoriesFailed, match=re.escape(name.removeprefix(".").removesuffix(".partial"))) as caught:
        kept.add(straight(3))
    assert "\n" not in str(caught.value)
    (tmp_path / name).rmdir()
    resumed = kept_in(tmp_path, NUMBERS, 3)
    assert not resumed.entries
    resumed.add(straight(3))
    assert_same(resumed[1], straight(3)[1])


MEMORY = """
import random, sys
from pathlib import Path
import psutil, torch
from cluster.runs.trajectory_folder import TrajectoryFolder, find_own
from cluster.runs.trajectory_index import TrajectoryOrigin
from models.records import ODE, Trajectory

count, folder = int(sys.argv[1]), Path(sys.argv[2])
made_by = TrajectoryOrigin("0" * 16, 4, [1000.0, 500.0], 3.0, [0, 2, -1], 1.5, "", [12, 3, 64, 64], "float32", "tiny")

def pair(number):
    tensors = torch.full((3, *made_by.shape), float(number))
    return Trajectory(number, 0, 0, ODE, f"prompt {number}", number, tensors[:2], tensors[2])

def open_folder():
    return TrajectoryFolder(folder, range(count), 4, lambda: find_own(folder, made_by, print))

torch.set_num_threads(1)
memory = psutil.Process().memory_info
with open_folder() as kept:
    kept.add([pair(number) for number in range(8)])
    assert all((kept[number].latents == number).all() for number in range(8))
    before = largest = memory().rss
    for number in range(8, count):
        kept.add([pair(number)])
        largest = max(largest, memory().rss)
kept, draw = open_folder(), random.Random(0)
for _ in range(count):
    batch = [kept[draw.randrange(count)] for _ in range(4)]
    assert all((pair.latents == pair.rollout).all() and (pair.states == pair.rollout).all() for pair in batch)
    largest = max(largest, memory().rss)
print(largest - before, count * sum(tensor.nbytes for tensor in (kept[0].states, kept[0].latents)))
"""


@pytest.mark.proof
def test_memory_does_not_grow_with_the_number_of_trajectories(tmp_path):
    """1.8 MB each: what eight times as many may cost is the index and noise, not the 200 MB that they are more."""
    grown = {}
    for count in (16, 128):
        shown = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count), tmp_path / str(count)],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        grown[count], size = map(int, shown.stdout.splitlines()[-1].split())
    print({count: f"{bytes_ / 1e6:.1f} MB" for count, bytes_ in grown.items()}, f"{size / 1e6:.0f} MB on disk")
    assert grown[128] - grown[16] < 0.05 * size
