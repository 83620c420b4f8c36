import copy
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from learner.optimizer import NonFiniteError, Optimizer, adamw, muon
from models.network_config import TINY
from models.wan.network import Wan
from tests.learner.saved_state import in_files

KINDS = {
    "adamw": lambda module: adamw(module, 1e-2, (0.0, 0.99), 0.01),
    "muon": lambda module: muon(module, 1e-2, 3e-3),
}
kinds = pytest.mark.parametrize("kind", KINDS)


class Small(nn.Module):
    """A network with matrices in `blocks`, and a rest."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 1)
        self.unused = nn.Linear(2, 2)

    def loss(self, step: int) -> Tensor:
        """A loss on data of its own for every step."""
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (self.head(self.blocks(x)) - x.sum(1, keepdim=True)).square().mean()


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


def optimizer(module: nn.Module, kind: str, cosine_steps: int | None = None) -> Optimizer:
    return Optimizer(
        "critic", module, KINDS[kind](module), lr_key="dmd.critic_lr", grad_clip=1.0, cosine_steps=cosine_steps
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Slope(nn.Module):
    """One number with a constant gradient of one: plain descent then shows the learning rate of every step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))


def rates(cosine_steps: int | None, steps: int, lr: float) -> list[float]:
    module = Slope()
    plain = Optimizer(
        "x",
        module,
        [torch.optim.SGD(module.parameters(), lr=lr)],
        lr_key="x.lr",
        grad_clip=math.inf,
        cosine_steps=cosine_steps,
    )
    path = [0.0]
    for _ in range(steps):
        plain.step([module.weight.sum()])
        path.append(module.weight.item())
    return [before - after for before, after in pairwise(path)]


@kinds
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_names_the_part(kind, broken):
    module = small()
    trained = optimizer(module, kind)
    trained.step([module.loss(0)])
    before, state = copy.deepcopy(module), save(trained.state())
    with pytest.raises(NonFiniteError, match=r"^critic: .*\b2; .*dmd\.critic_lr.*run_dir"):
        trained.step([module.loss(1) * broken])
    assert same(module, before) and save(trained.state()) == state and trained.updates == 1


def test_a_gradient_that_is_not_finite_stops_too_though_the_loss_is():
    module = small()
    trained = optimizer(module, "adamw")
    weight = module.head.weight
    loss = (weight - weight.detach()).abs().sqrt().sum()  # 0, with a slope of infinity times 0
    assert loss.item() == 0
    with pytest.raises(NonFiniteError, match=r"\b0(\.0*)?\b.*\bnan\b"):
        trained.step([loss])
    assert same(module, small())


@kinds
def test_a_good_update_after_a_refused_one_is_the_update_that_would_have_been(kind):
    module, undisturbed = small(), small()
    trained, other = optimizer(module, kind), optimizer(undisturbed, kind)
    with pytest.raises(NonFiniteError):
        trained.step([module.loss(5) * math.nan])
    trained.step([module.loss(0)])
    other.step([undisturbed.loss(0)])
    assert same(module, undisturbed)


@kinds
@pytest.mark.parametrize("cosine_steps", [None, 6])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_stopping_and_going_on_is_bit_equal_to_not_stopping(kind, cosine_steps, stop, tmp_path):
    whole = small()
    trained = optimizer(whole, kind, cosine_steps)
    first = small()
    before = optimizer(first, kind, cosine_steps)
    for step in range(stop):
        before.step([first.loss(step)])
    resumed = small()
    resumed.load_state_dict(first.state_dict())
    after = optimizer(resumed, kind, cosine_steps)
    after.load_state(in_files(tmp_path, {"moments": before.state()})["moments"], before.updates)
    for step in range(6):
        trained.step([whole.loss(step)])
        if step >= stop:
            after.step([resumed.loss(step)])
    assert same(resumed, whole) and not same(resumed, first)
    assert after.updates == 6 and save(after.state()) == save(trained.state())


@kinds
def test_moments_of_another_network_are_refused_by_name(kind, tmp_path):
    module = small()
    trained = optimizer(module, kind)
    trained.step([module.loss(0)])
    renamed = {f"other.{name}": value for name, value in trained.state().items()}
    with pytest.raises(ValueError, match=r" other\."):
        trained.load_state(in_files(tmp_path, {"moments": renamed})["moments"], 1)


def test_the_rate_rises_over_a_hundredth_of_the_steps_and_falls_to_nearly_zero_along_a_cosine():
    made = rates(cosine_steps=400, steps=400, lr=0.5)
    rising = [0.125, 0.25, 0.375, 0.5]
    falling = [0.25 * (1 + math.cos(math.pi * step / 396)) for step in range(396)]
    assert made == pytest.approx([*rising, *falling], abs=1e-9)
    assert 0 < made[-1] < 1e-4 * 0.5


def test_without_a_schedule_the_rate_is_constant():
    assert rates(cosine_steps=None, steps=5, lr=0.5) == pytest.approx([0.5] * 5)


def test_the_schedule_scales_the_peak_of_every_optimiser_and_group_by_itself():
    module = small()
    trained = optimizer(module, "muon", cosine_steps=10)
    for step in range(6):
        trained.step([module.loss(step)])
    rates = [group["lr"] for one in trained.optimizers for group in one.param_groups]
    share = 0.5 * (1 + math.cos(math.pi * 4 / 9))
    assert rates == pytest.approx([1e-2 * share, 3e-3 * share])


def test_a_gradient_is_clipped_to_its_bound_over_all_weights_and_reported_unclipped():
    module = small()
    before = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    plain = Optimizer("x", module, [torch.optim.SGD(module.parameters(), lr=1.0)], lr_key="x.lr", grad_clip=0.5)
    metrics = plain.step([1000 * module.loss(0)])
    moved = nn.utils.parameters_to_vector(module.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert metrics["x/grad_norm"] > 100
    assert metrics["x/loss"] == pytest.approx(1000 * small().loss(0).item(), rel=1e-5)


def test_muon_has_the_matrices_of_the_blocks_and_adamw_every_other_weight():
    with torch.device("meta"):
        network = Wan(TINY)
    matrices, rest = muon(network, 1e-2, 3e-3)
    names = {p: name for name, p in network.named_parameters()}
    owned = [{names[p] for group in one.param_groups for p in group["params"]} for one in (matrices, rest)]
    assert not owned[0] & owned[1] and owned[0] | owned[1] == set(names.values())
    assert owned[0] == {name for name in names.values() if name.startswith("blocks.") and name.endswith("weight")} - {
        name for name in names.values() if ".norm" in name
    }
    assert isinstance(matrices, torch.optim.Muon) and isinstance(rest, torch.optim.AdamW)


def test_every_weight_that_gets_a_gradient_moves_and_no_other():
    for kind in KINDS:
        module, start = small(), small()
        optimizer(module, kind).step([module.loss(0)])
        for (name, p), old in zip(module.named_parameters(), start.parameters(), strict=True):
            assert torch.equal(p, old) == name.startswith("unused"), (kind, name)
