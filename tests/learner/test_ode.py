from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from learner.build import LearnerParts, ode_initializer
from learner.ode import OdeInitializer
from learner.stage_config import LearnerConfig, MuonConfig, OdeConfig
from models.causal import denoise_block, write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.records import Trajectory
from models.wan.network import Wan
from models.worlds.tiny_world import encode_text
from tests.cluster.runs.trajectories import SMALL, straight
from tests.learner.networks import network
from tests.learner.saved_state import in_files

CONFIG = OdeConfig(steps=8, batch_size=3, optimizer=MuonConfig(lr=2e-3, adamw_lr=5e-4))
STILL = {"batch_size": 1, "optimizer": MuonConfig(lr=1e-30, adamw_lr=1e-30)}
"""Learning rates that move no float: one set of weights for many updates."""


def initializer(student: Wan | None = None, **changes) -> OdeInitializer:
    parts = LearnerParts(
        student=SMALL, teacher_wan=SMALL.wan, learner=LearnerConfig(), encode_text=encode_text, seed=3,
        device=torch.device("cpu"),
    )  # fmt: skip
    return ode_initializer(parts, replace(CONFIG, **changes), student or network(0, "tiny"))


def same(one: Wan, other: Wan) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def loss_block_by_block(student: Wan, pair: Trajectory, steps: tuple[int, ...]) -> float:
    """Each block denoised from the trajectory's state at a step of its own, after the trajectory's clean blocks."""
    text, cache, squares = student.text_keys_values(encode_text([pair.prompt])), KVCache(SMALL.wan, 3), []
    for block, step in enumerate(steps):
        inside = slice(3 * block, 3 * block + 3)
        sigma = warped_sigmas(SMALL.timesteps, SMALL.shift)[step]
        x_t, x0 = pair.states[None, step, inside], pair.latents[None, inside]
        velocity = denoise_block(student, x_t, torch.full((1, 3), 1000 * sigma), text, cache)
        squares.append((x_t - sigma * velocity - x0).square())
        cache = write_block(student, x0, text, cache)
    return torch.cat(squares).mean().item()


@torch.no_grad()
def possible_losses(student: Wan, pair: Trajectory) -> Tensor:
    return torch.tensor([loss_block_by_block(student, pair, steps) for steps in product(range(2), repeat=2)])


def test_the_loss_is_that_of_blocks_denoised_one_by_one_each_from_a_level_of_its_own():
    pair = straight(1)
    trained = initializer(**STILL)
    possible = possible_losses(trained.trained.network, pair[0])
    nearest = set()
    for _ in range(20):
        distance = (possible - trained.update(pair, 1)["ode/loss"]).abs() / possible
        assert distance.min() < 1e-5
        nearest.add(distance.argmin().item())
    assert nearest == {0, 1, 2, 3}


def test_the_loss_falls_on_trajectories_seen_again_and_again():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = initializer(Wan(SMALL.wan), steps=25, batch_size=2)
    losses = [trained.update(straight(1), 1)["ode/loss"] for _ in range(25)]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_an_update_depends_on_its_number_and_seed_and_not_on_what_was_drawn_before():
    one, other = initializer(), initializer()
    torch.randn(5)
    assert one.update(straight(4), 4) == other.update(straight(4), 4)
    assert same(one.trained.network, other.trained.network) and one.step == 1


def test_three_updates_are_one_then_saved_and_loaded_then_two(tmp_path):
    pairs, whole, first = straight(4), initializer(), initializer()
    for _ in range(3):
        whole.update(pairs, 4)
    first.update(pairs, 4)
    resumed = initializer(Wan(SMALL.wan))
    tensors, counts = first.state()
    resumed.load_state(in_files(tmp_path, tensors), counts)
    assert resumed.step == 1
    for _ in range(2):
        resumed.update(pairs, 4)
    assert same(resumed.trained.network, whole.trained.network) and not same(
        resumed.trained.network, first.trained.network
    )


def test_trajectories_are_waited_for_one_more_each_update_and_never_more_than_there_are():
    config = OdeConfig(pairs=50, first_pairs=48)
    assert [config.pairs_at(step) for step in (0, 1, 2, 3, 99)] == [48, 49, 50, 50, 50]
