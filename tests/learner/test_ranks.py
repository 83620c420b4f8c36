"""Two ranks on Gloo train as one rank does. All of what two ranks do is done in one pair of processes, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing
from torch.distributed.tensor import DTensor

from learner import ranks
from learner.assembly import make_distiller, make_ode_initializer, make_pretrainer
from learner.config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig, Source
from learner.distillation import Distiller
from learner.shares import own_places
from models.config import CONFIGS, StudentConfig
from models.files import save_weights
from models.flow import warped_sigmas
from models.rollout import ODE, STUDENT, Trajectory, Window
from models.tiny_world import PROMPTS, encode_text
from models.wan import Wan

CPU = torch.device("cpu")
SHAPE = StudentConfig(height=4, width=8, horizon_frames=6, attention_frames=6)
BATCH, UPDATES = 4, 8
Results = dict[str, Tensor]


def network(seed: int, model: str = "tiny") -> Wan:
    """Random weights, with gates far from their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wan = Wan(CONFIGS[model])
        for p in wan.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.02 if p.ndim == 2 else 0.3)
    return wan


def windows(update: int) -> list[Window]:
    """A step's windows, of noise: histories of 0, 3 and 6 frames, and weights and ages of their own."""
    generator, made = torch.Generator().manual_seed(update), []
    for i in range(BATCH):
        start = 3 * ((i + update) % 3)
        context, latents, noisy = torch.randn(start + 12, *SHAPE.frame_shape, generator=generator).split([start, 6, 6])
        made.append(
            Window(
                rollout=update, attempt=0, index=i, role=STUDENT, prompt=PROMPTS[i], seed=100 * update + i,
                start=start, step=3 if i % 2 else 1, versions=(0,), context=context, latents=latents, noisy=noisy,
                age=i % 3, weight=1.0 if i % 2 else 0.5,
            )
        )  # fmt: skip
    return made


def pairs() -> list[Trajectory]:
    """States [4 6 C H W] on straight lines from noise to x0."""
    generator, sigmas, made = torch.Generator().manual_seed(0), warped_sigmas(SHAPE.timesteps, SHAPE.shift), []
    for i in range(5):
        noise, x0 = torch.randn(2, 6, *SHAPE.frame_shape, generator=generator).unbind()
        states = torch.stack([(1 - sigma) * x0 + sigma * noise for sigma in sigmas])
        made.append(Trajectory(i, 0, 0, ODE, PROMPTS[i], states, x0))
    return made


def write_networks(folder: Path) -> None:
    for seed, name in enumerate(("init", "base", "teacher")):
        save_weights(network(seed), folder / f"{name}.safetensors", {})
    save_weights(network(3, "tiny_wide"), folder / "wide.safetensors", {})


def distiller(folder: Path, learner: LearnerConfig, wide: bool = False, **changes) -> Distiller:
    config = DmdConfig(batch_size=BATCH, ema_decay=0.9, **changes)
    return make_distiller(
        SHAPE, config, learner, init=Source(folder / "init.safetensors", "init"),
        base=Source(folder / "base.safetensors", "base"),
        teacher=Source(folder / ("wide.safetensors" if wide else "teacher.safetensors"), "teacher"),
        teacher_wan=CONFIGS["tiny_wide" if wide else "tiny"], encode_text=encode_text, seed=5, device=CPU,
    )  # fmt: skip


def train(trained: Distiller, first: int, end: int) -> Results:
    """Updates of critic and student, each rank with its share of the windows; metrics, weights and averages."""
    log = {}
    for update in range(first, end):
        critics, students = (
            [given[place] for place in own_places(BATCH)] for given in (windows(update), windows(1000 + update))
        )
        metrics = trained.update_critic(critics) | trained.update_student(students)
        log |= {f"{name} {update}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    return log


def outcome(trained: Distiller) -> Results:
    results = {f"raw {name}": tensor for name, tensor in trained.weights().items()}
    return results | {f"averaged {name}": tensor for name, tensor in trained.averaged().items()}


def distil(folder: Path, updates: int = UPDATES, wide: bool = False, learner: LearnerConfig | None = None, **changes):
    trained = distiller(folder, learner or LearnerConfig(), wide, **changes)
    return train(trained, 0, updates) | outcome(trained)


def resume_first_half(folder: Path) -> Results:
    """Four updates, the whole state beside the results, then four more."""
    trained = distiller(folder, LearnerConfig())
    train(trained, 0, 4)
    tensors, counts = trained.state()
    assert counts == {"student": 4, "critic": 4}
    assert bool(tensors["student"]) == (ranks.rank() == 0)
    kept = {f"state {group}|{name}": t for group, named in tensors.items() for name, t in named.items()}
    return kept | train(trained, 4, 8) | outcome(trained)


def initialise(folder: Path) -> Results:
    config = OdeConfig(steps=8, batch_size=BATCH, lr=2e-3, adamw_lr=5e-4)
    learner = LearnerConfig(micro_batch=1)
    trained = make_ode_initializer(
        SHAPE, config, learner, Source(folder / "base.safetensors", "base"), encode_text, 3, CPU
    )
    log = {f"loss {i}": torch.tensor(trained.update(pairs())["ode/loss"]) for i in range(4)}
    return log | trained.weights()


def pretrain(folder: Path) -> Results:
    config = PretrainConfig(steps=8, batch_size=BATCH, lr=2e-3, adamw_lr=5e-4)
    trained = make_pretrainer(SHAPE.wan, config, LearnerConfig(micro_batch=2), 6, 3, CPU)
    log = {f"loss {i}": torch.tensor(trained.update()["pretrain/loss"]) for i in range(4)}
    return log | trained.averaged()


def half_precision(folder: Path) -> Results:
    learner = LearnerConfig(dtype="bfloat16", teacher_dtype="bfloat16", checkpoint_activations=True, micro_batch=1)
    trained = distiller(folder, learner)
    results = train(trained, 0, 2)
    assert all(p.dtype == torch.float32 and isinstance(p, DTensor) for p in trained.student.parameters())
    assert all(p.dtype == torch.bfloat16 for p in trained.teacher.parameters())
    return results | outcome(trained)


SCENES: dict[str, Callable[[Path], Results]] = {
    "plain": distil,
    "micro-batches of one": lambda folder: distil(folder, learner=LearnerConfig(micro_batch=1)),
    "activation checkpointing": lambda folder: distil(folder, learner=LearnerConfig(checkpoint_activations=True)),
    "adapters": lambda folder: distil(folder, learner=LearnerConfig(lora_rank=4, lora_alpha=8.0, micro_batch=1)),
    "block by block": lambda folder: distil(folder, updates=2, replay="blockwise"),
    "a wide teacher and fresh noise": lambda folder: distil(folder, updates=2, wide=True, noising="fresh"),
    "resumed": resume_first_half,
    "stage ode": initialise,
    "stage teacher": pretrain,
    "bfloat16": half_precision,
}


def work(rank: int, count: int, folder: Path) -> None:
    """What a rank does: every scene; rank 0 writes what came out."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    for name, scene in SCENES.items():
        results = scene(folder)
        if rank == 0:
            save_file(results, folder / f"{name}.results")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    write_networks(made)
    multiprocessing.spawn(work, (2, made), nprocs=2)
    return made


@pytest.fixture(scope="module")
def alone(folder) -> Callable[[str], Results]:
    return cache(lambda name: SCENES[name](folder))


def distance(one: Results, other: Results) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.mark.parametrize("name", [name for name in SCENES if name not in ("bfloat16", "resumed")])
def test_two_ranks_give_the_losses_and_weights_of_one(folder, alone, name):
    d=distance(load_file(folder / f"{name}.results"), alone(name)); print(name, d)
    assert distance(load_file(folder / f"{name}.results"), alone(name)) <= 1e-5
