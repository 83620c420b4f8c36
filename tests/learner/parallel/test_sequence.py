"""Ranks that split the tokens of windows compute what one rank computes: passes, losses, gradients, updates."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.multiprocessing import start_processes

from learner.parallel import collectives
from learner.parallel.sequence import Ulysses
from learner.stage_config import LearnerConfig
from models.causal import Past, denoise_window
from tests.learner.networks import network
from tests.learner.parallel.test_collectives import (
    ADAPTERS,
    FRUGAL,
    Results,
    distance,
    distil,
    initialise,
    pretrain,
    reward,
    write_networks,
)

pytestmark = [pytest.mark.slow, pytest.mark.core, pytest.mark.proof]
FRAME = (3, 12, 12)
"""Nine tokens: no multiple of 2 or 4 ranks."""


@dataclass(frozen=True)
class Split:
    """Holds a number of ranks, and how many of them split a window."""

    ranks: int
    sequence: int


def passes(folder: Path) -> Results:
    """Pass windows through a bidirectional and a causal network in float64, behind histories of 3 and 6 frames."""
    wan, generator = network(0).double(), torch.Generator().manual_seed(0)
    wan.checkpoint_activations = True
    if collectives.sequence_group() is not None:
        for part in (wan, *wan.blocks):
            part.layout = Ulysses(collectives.sequence_group())

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    x_t, history, clean, text = draw(6, *FRAME), draw(6, *FRAME), draw(3, *FRAME), draw(12, 32)
    teacher = wan(x_t, torch.tensor([900.0, 300.0]), text)
    past = Past(history, (0, 3), (0, 1), (6, -3))
    student = denoise_window(wan, x_t, torch.full((2, 6), 700.0), wan.text_keys_values(text), past, clean, 3, 6)
    (teacher * draw(6, *FRAME) + student.square()).sum().backward()
    gradients = {name: collectives.all_reduce_mean(p.grad) for name, p in wan.named_parameters()}
    return gradients | {"teacher's velocity": teacher.detach(), "student's velocity": student.detach()}


EXACT = "passes"
SCENES: dict[str, Callable[[Path], Results]] = {
    EXACT: passes,
    "stage dmd, checkpointed, in micro-batches of one": lambda folder: distil(folder, 1, FRUGAL),
    "stage dmd with adapters": lambda folder: distil(folder, 1, ADAPTERS),
    "stage dmd block by block": lambda folder: distil(folder, 1, LearnerConfig(), wide=True, replay="blockwise"),
    "stage teacher": pretrain,
    "stage grpo": reward,
    "stage ode": initialise,
}
SPLITS = {
    Split(2, 2): [EXACT],
    Split(4, 2): [EXACT, "stage dmd, checkpointed, in micro-batches of one"],
    Split(4, 4): [EXACT],
}
SLOW = ["stage dmd with adapters", "stage dmd block by block", "stage teacher", "stage grpo", "stage ode"]


def work(rank: int, split: Split, names: list[str], folder: Path) -> None:
    """Run the named scenes as one rank of a split; rank 0 writes the results."""
    torch.set_num_threads(1)
    store, patience = f"file://{folder / f'store {split} {len(names)}'}", timedelta(seconds=120)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=split.ranks, timeout=patience)
    collectives.split_sequences(split.sequence)
    for name in names:
        results = SCENES[name](folder)
        if rank == 0:
            save_file(results, folder / f"{name} {split}.results")
    distributed.destroy_process_group()


def run(split: Split, names: list[str], folder: Path) -> None:
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo", "peft"])  # imported once, for all processes
    start_processes(work, (split, names, folder), nprocs=split.ranks, start_method="forkserver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    write_networks(made)
    for split, names in SPLITS.items():
        run(split, names, made)
    return made


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLITS.items() for name in names])
def test_ranks_that_split_windows_give_the_results_of_one(folder, split, name):
    results = load_file(folder / f"{name} {split}.results")
    assert distance(results, SCENES[name](folder)) <= (1e-12 if name == EXACT else 1e-5)


@pytest.mark.proof
def test_every_stage_and_replay_gives_the_results_of_one_rank(folder):
    split = Split(4, 2)
    run(split, SLOW, folder)
    for name in SLOW:
        split_up, one = load_file(folder / f"{name} {split}.results"), SCENES[name](folder)
        # Muon turns rounding into weights: of stage ode the losses are compared.
        compared = [key for key in one if key.startswith("loss") or name != "stage ode"]
        assert (
            compared and distance({key: split_up[key] for key in compared}, {key: one[key] for key in compared}) <= 1e-5
        )
