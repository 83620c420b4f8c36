import pytest

from tests.fakes.killed_child import count_kills

TIMEOUT_S = 300

KILLED = """
import json, random, sys
from functools import partial
from pathlib import Path
import torch
from cluster.runs.trajectory_folder import TrajectoryFolder, find_own
from cluster.runs.trajectory_index import TrajectoryOrigin
from models.records import ODE, Trajectory
from tests.fakes.killed_child import run_killed

MADE_BY = TrajectoryOrigin("0" * 16, 4, [1000.0, 500.0], 3.0, [0, 2, -1], 1.5, "", [6, 3, 4, 8], "float32", "tiny")

torch.set_num_threads(1)  # a forked child has none of the threads that its parent's pool counts on

def pair(number):
    tensors = torch.arange(3 * 6 * 3 * 4 * 8).reshape(3, *MADE_BY.shape) + 10000.0 * number
    return Trajectory(number, 0, 0, ODE, f"prompt {number}", 7 * number, tensors[:2], tensors[2])

def open_folder(path, count, lines):
    return TrajectoryFolder(path, range(count), 3, lambda: find_own(path, MADE_BY, lines.append))

def missing(kept, count):
    return [number for number in range(count) if number not in kept.entries]

def make(path, count, acknowledge):
    "Make what is missing; a number that is known to be on disk is acknowledged."
    with open_folder(path, count, []) as kept:
        for number in missing(kept, count):
            kept.add([pair(number)])
            acknowledge(len(kept.entries))

def killed(path, count, kill_at, delay_s):
    "Whether a process was killed, after what it left has been found good."
    was_killed, acknowledged = run_killed(partial(make, path, count), kill_at, delay_s)
    lines = []
    kept = open_folder(path, count, lines)
    assert not any("damaged" in line or "again" in line for line in lines), lines
    assert len(kept.entries) >= acknowledged, "a finished shard was lost"
    assert_good(kept)
    return was_killed

def assert_good(kept):
    for pair_there in kept:
        wanted = pair(pair_there.rollout)
        assert (pair_there.prompt, pair_there.seed) == (wanted.prompt, wanted.seed)
        assert torch.equal(pair_there.states, wanted.states) and torch.equal(pair_there.latents, wanted.latents)

def completed(path, count):
    "What was missing is made, and then everything is there once."
    with open_folder(path, count, []) as kept:
        for number in missing(kept, count):
            kept.add([pair(number)])
    kept = open_folder(path, count, [])
    places = {(entry.shard, entry.position) for entry in kept.entries.values()}
    assert len(kept) == len(kept.entries) == len(places) == sum(len(s.pairs) for s in kept.shards.values()) == count
    assert_good(kept)

folder, kills = Path(sys.argv[1]), {"at an operation": 0, "at a moment": 0}
while killed(path := folder / f"operation {kills['at an operation']}", 8, kills["at an operation"] + 1, None):
    completed(path, 8)
    kills["at an operation"] += 1
draw = random.Random(0)
for _ in range(12):
    kills["at a moment"] += killed(folder / "moments", 1000, 10**9, draw.uniform(0, 0.05))
completed(folder / "moments", 1000)
print(json.dumps(kills))
"""


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.slow
def test_a_process_killed_at_any_file_operation_or_moment_loses_no_finished_shard_and_another_ends_with_all_of_it(
    tmp_path,
):
    """A child is killed at its first operation on files, the next at its second, until one ends by itself."""
    kills = count_kills(KILLED, tmp_path, TIMEOUT_S)
    print(kills)
    assert kills["at an operation"] > 30 and kills["at a moment"] > 6, kills
