import pytest

from tests.fakes.killed_child import count_kills

TIMEOUT_S = 240

KILLED = """
import json, random, sys
from functools import partial
from pathlib import Path
import torch
from cluster.runs.checkpoints import checkpoint
from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs.checkpoints.stage_folder import StageFolder
from tests.fakes.killed_child import run_killed

torch.set_num_threads(1)  # a forked child has none of the threads that its parent's pool counts on

class Counting:
    "Every number of its state is its step."
    def __init__(self, size):
        self.size, self.step = size, 0
    def state(self):
        full = torch.full((self.size,), float(self.step))
        return {"student": {"w": full}, "critic": {"w": full.clone()}}, {"step": self.step}
    def load_state(self, groups, state):
        self.step = state["step"]
        assert all((group.read()["w"] == self.step).all() for group in groups.values())

def train(path, size, saves, acknowledge):
    "Restore, then save after each update; the step that is known to be written is acknowledged."
    learner = Counting(size)
    with StageFolder(path, config=CheckpointConfig(every=1, keep=2, keep_every=4)) as folder:
        folder.restore(learner)
        for _ in range(saves):
            learner.step += 1
            folder.save(learner, learner.step, ({"w": torch.full((3,), float(learner.step))}, {"step": learner.step}))
            acknowledge(learner.step - 1)

def killed(path, size, saves, kill_at, delay_s):
    "Whether a training process was killed, after the checkpoint that it left has been found good."
    was_killed, acknowledged = run_killed(partial(train, path, size, saves), kill_at, delay_s)
    found, damaged = checkpoint.newest_valid(path / "checkpoints")
    assert not damaged, damaged
    for other in (path / "checkpoints").glob("step_*"):
        checkpoint.verify(other)
    step = 0 if found is None else checkpoint.step_of(found)
    assert step >= acknowledged, (step, acknowledged)
    if found is not None:
        learner = Counting(size)
        tensors, state = StageFolder(path).restore(learner)
        assert learner.step == state["step"] == step and (tensors["w"] == step).all()
    return was_killed

folder, kills = Path(sys.argv[1]), {"at an operation": 0, "at a moment": 0}
while killed(folder / "operations", 10, 3, kills["at an operation"] + 1, None):
    kills["at an operation"] += 1
draw = random.Random(0)
for _ in range(20):
    kills["at a moment"] += killed(folder / "moments", 1 << 21, 1000, 10**9, draw.uniform(0, 0.1))
print(json.dumps(kills))
"""


@pytest.mark.proof
@pytest.mark.slow
def test_a_process_killed_at_any_file_operation_or_moment_leaves_a_whole_checkpoint_no_older_than_the_last_known(
    tmp_path,
):
    """A child is killed at its first operation on files, the next at its second, until one ends by itself."""
    kills = count_kills(KILLED, tmp_path, TIMEOUT_S)
    assert kills["at an operation"] > 60 and kills["at a moment"] == 20, kills
