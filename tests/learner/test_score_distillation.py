import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from actors.rollout_actor import RolloutActor
from actors.rollout_config import WindowConfig
from learner.build import LearnerParts, dmd_learner
from learner.optimizer import NonFiniteError
from learner.replay import collate, masked_x0
from learner.score_distillation import DmdLearner
from learner.stage_config import AdamWConfig, DmdConfig, LearnerConfig
from learner.trained_network import Ema
from models.network_config import StudentConfig
from models.records import STUDENT, Rollout, Weights, Window, WindowPlan
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.fixed_weights import FixedWeights
from tests.learner.networks import SHALLOW, network
from tests.learner.saved_state import in_files

SHAPE = StudentConfig(model=SHALLOW, height=4, width=8, horizon_frames=6, attention_frames=6)
BETA = AdamWConfig(beta1=0.9, weight_decay=0.0)
CONFIG = DmdConfig(batch_size=3, ema_decay=0.9, optimizer=AdamWConfig(weight_decay=0.0))
FULL = (SHAPE.wan.num_layers - 1) * SHAPE.context_frames


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """Windows of version 0, made by a real actor: one without history and two with all that the cache ever saw."""
    plans = tuple(WindowPlan(STUDENT, start, 3, index) for index, start in enumerate((0, 12, 18)))
    window = WindowConfig(frames=6, burn_in_frames=FULL)
    actor = RolloutActor(SHAPE, window, encode_text, TinyCodec(), FixedWeights(Weights.of(0, network(0))))
    made = actor.windows([Rollout(0, 0, PROMPTS[3], 11, 24, plans)])
    return [item for item in made if isinstance(item, Window)]


def parts(**changes) -> LearnerParts:
    given = {"learner": LearnerConfig(), "encode_text": encode_text, "seed": 5} | changes
    return LearnerParts(student=SHAPE, teacher_wan=SHAPE.wan, device=torch.device("cpu"), **given)


def distiller(micro_batch: int | None = None, seed: int = 5, **changes) -> DmdLearner:
    given = parts(learner=LearnerConfig(micro_batch=micro_batch), seed=seed)
    return dmd_learner(given, replace(CONFIG, **changes), [network(0), network(1), network(2)])


def copies(*modules: nn.Module) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in module.parameters()] for module in modules]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def changed(module: nn.Module, before: Sequence[Tensor]) -> list[bool]:
    return [not torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True)]


def everything(trained: DmdLearner) -> list[Tensor]:
    """All tensors of a checkpoint, in the order of their names."""
    tensors, _ = trained.state()
    return [tensors[group][name] for group in sorted(tensors) for name in sorted(tensors[group])]


@pytest.mark.parametrize("replay", ["masked", "blockwise"])
def test_a_student_update_moves_every_student_weight_and_leaves_teacher_and_critic_alone(windows, replay):
    trained = distiller(replay=replay)
    student, critic, teacher = copies(trained.student.network, trained.critic.network, trained.scores.teacher)
    trained.update_student(windows)
    assert all(changed(trained.student.network, student))
    assert not any(changed(trained.critic.network, critic)) and not any(changed(trained.scores.teacher, teacher))
    assert all(
        p.grad is None for module in (trained.critic.network, trained.scores.teacher) for p in module.parameters()
    )


@pytest.mark.parametrize("replay", ["masked", "blockwise"])
def test_a_critic_update_moves_every_critic_weight_and_leaves_student_and_teacher_alone(windows, replay):
    trained = distiller(replay=replay)
    student, critic, teacher = copies(trained.student.network, trained.critic.network, trained.scores.teacher)
    trained.update_critic(windows)
    assert all(changed(trained.critic.network, critic))
    assert not any(changed(trained.student.network, student)) and not any(changed(trained.scores.teacher, teacher))
    assert all(
        p.grad is None for module in (trained.student.network, trained.scores.teacher) for p in module.parameters()
    )


def in_float64(guidance: float) -> DmdLearner:
    """A student whose critic is the teacher. Adam makes a step of any gradient above 1e-8: rounding must be below."""
    config = replace(CONFIG, guidance=guidance)
    given = parts(encode_text=lambda prompts: encode_text(prompts).double())
    return dmd_learner(given, config, [network(seed).double() for seed in (0, 2, 2)])


@pytest.mark.parametrize(("guidance", "moves"), [(1.0, False), (2.0, True)])
def test_the_student_stands_still_when_the_critic_equals_the_teacher_without_guidance(windows, guidance, moves):
    exact = [
        replace(w, context=w.context.double(), latents=w.latents.double(), noisy=w.noisy.double()) for w in windows
    ]
    trained = in_float64(guidance)
    before = copies(trained.student.network)[0]
    metrics = trained.update_student(exact)
    step = max(
        (p - old).abs().max().item() for p, old in zip(trained.student.network.parameters(), before, strict=True)
    )
    assert (step > 0.5 * CONFIG.optimizer.lr) if moves else (step < 1e-6 * CONFIG.optimizer.lr)
    assert (metrics["student/dmd_gradient"] > 1e-3) if moves else (metrics["student/dmd_gradient"] < 1e-12)


def test_guidance_away_from_the_prompt_itself_leads_nowhere_and_from_another_it_leads_elsewhere(windows):
    """Conditional and unconditional branch are then one: any guidance gives what none gives."""

    def updated(guidance: float, negative_prompt: str) -> list[Tensor]:
        config = replace(CONFIG, guidance=guidance)
        trained = dmd_learner(parts(negative_prompt=negative_prompt), config, [network(0), network(1), network(2)])
        trained.update_student(windows)
        return list(trained.student.weights().values())

    unguided = updated(1.0, "")
    assert same(unguided, updated(1.0, PROMPTS[5])), "without guidance nothing is led away from"
    for a, b in zip(updated(4.0, PROMPTS[3]), unguided, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert not same(updated(4.0, ""), unguided) and not same(updated(4.0, PROMPTS[5]), updated(4.0, ""))


def always(velocity: float) -> Wan:
    """A network that predicts one velocity, whatever it sees: its x0 is x_t - sigma * velocity."""
    constant = network(1)
    nn.init.zeros_(constant.proj_out.weight)
    nn.init.constant_(constant.proj_out.bias, velocity)
    return constant


@pytest.mark.parametrize("brighter", [1.0, -1.0])
def test_the_student_moves_to_where_the_teacher_differs_from_the_critic(windows, brighter):
    trained = dmd_learner(parts(), CONFIG, [network(0), always(0.0), always(-brighter)])
    batch = collate(windows, encode_text, torch.device("cpu"))
    levels = torch.full((3,), trained.scores.sigmas[3])

    @torch.no_grad()
    def brightness() -> float:
        return masked_x0(trained.student.network, SHAPE, batch, batch.noisy, levels).mean().item()

    before = brightness()
    for _ in range(3):
        trained.update_student(windows)
    assert brighter * (brightness() - before) > 1e-3


def test_steps_count_student_updates_only_and_published_weights_are_a_copy(windows):
    trained = distiller()
    published, start = trained.student.weights(), copies(trained.student.network)[0]
    for update, step in ((trained.update_critic, 0), (trained.update_student, 1), (trained.update_critic, 1)):
        update(windows)
        assert trained.step == step
    assert same(list(published.values()), start)
    assert published.keys() == trained.student.network.state_dict().keys()
    assert same(list(trained.student.weights().values()), list(trained.student.network.state_dict().values()))


def test_the_average_follows_the_student_by_its_formula_and_is_not_what_actors_get(windows):
    trained = distiller()
    expected = copies(trained.student.network)[0]
    for _ in range(3):
        trained.update_student(windows)
        expected = [
            0.9 * a + (1 - 0.9) * p.detach()
            for a, p in zip(expected, trained.student.network.parameters(), strict=True)
        ]
    averaged = trained.student.averaged()
    torch.testing.assert_close(list(averaged.values()), expected, rtol=1e-6, atol=1e-7)
    assert averaged.keys() == trained.student.weights().keys()
    assert not same(list(averaged.values()), list(trained.student.weights().values()))


def test_until_averaging_starts_the_average_is_the_student_itself(windows):
    trained = distiller(ema_start=2)
    for equal in (True, True, False):
        trained.update_student(windows)
        assert same(list(trained.student.averaged().values()), list(trained.student.network.parameters())) == equal


def test_an_average_leaves_the_module_it_follows_alone():
    module = nn.Linear(2, 2)
    ema, before = Ema(module, 0.5), copies(module)[0]
    ema.update(module)
    ema.restart(module)
    assert same(list(module.parameters()), before) and all(p.requires_grad for p in module.parameters())
    assert not any(average.requires_grad for average in ema.averages.values())


@pytest.mark.parametrize(
    ("stop", "end", "changes"),
    [(4, 8, {}), (1, 3, {"noising": "fresh"}), (1, 3, {"replay": "blockwise", "optimizer": BETA, "ema_start": 2})],
)
def test_stopping_saving_loading_and_going_on_is_not_stopping_bit_by_bit(windows, stop, end, changes, tmp_path):
    def update(trained: DmdLearner) -> list[dict[str, float]]:
        return [trained.update_critic(windows), trained.update_student(windows)]

    whole, first, resumed = (distiller(**changes) for _ in range(3))
    log = [update(whole) for _ in range(end)]
    for _ in range(stop):
        update(first)
    tensors, counts = first.state()
    saved = in_files(tmp_path, tensors)
    for module in (resumed.student.network, resumed.critic.network):
        module.load_state_dict(network(9).state_dict())
    resumed.student.ema.restart(network(8))
    resumed.load_state(saved, counts)
    assert resumed.step == stop and tensors.keys() == resumed.state()[0].keys()
    assert [update(resumed) for _ in range(end - stop)] == log[stop:]
    assert same(everything(resumed), everything(whole)) and resumed.step == whole.step == end


@pytest.mark.parametrize("part", ["student", "critic"])
def test_a_window_that_is_not_finite_stops_the_part_it_is_for_and_changes_nothing(windows, part):
    trained = distiller()
    before = [tensor.clone() for tensor in everything(trained)]
    broken = replace(windows[0], noisy=torch.full_like(windows[0].noisy, math.nan))
    update: Callable = getattr(trained, f"update_{part}")
    with pytest.raises(NonFiniteError, match=f"^{part}: "):
        update([broken, *windows[1:]])
    assert same(everything(trained), before) and trained.step == 0
    update(windows)  # and the run could go on


def test_stored_latents_are_context_only_where_the_rollouts_own_inputs_are_used(windows):
    """Teacher and critic score what the current student makes: a frame that no block looks back at changes nothing."""
    other = [replace(w, latents=torch.cat([w.latents[:3], w.latents[3:] + 1])) for w in windows]
    for noising, unseen in (("recorded", True), ("fresh", False)):
        one, two = distiller(noising=noising), distiller(noising=noising)
        for trained, given in ((one, windows), (two, other)):
            trained.update_critic(given)
            trained.update_student(given)
        assert same(everything(one), everything(two)) == unseen


def test_the_critic_scores_what_the_student_makes_now(windows):
    one, two = distiller(), distiller()
    two.student.network.load_state_dict(network(7).state_dict())
    assert one.update_critic(windows)["critic/loss"] != two.update_critic(windows)["critic/loss"]


def test_an_update_depends_on_its_number_and_seed_and_not_on_what_was_drawn_before(windows):
    one, again, elsewhere = distiller(), distiller(), distiller(seed=6)
    torch.randn(3)
    for trained in (one, again, elsewhere):
        trained.update_critic(windows)
        trained.update_student(windows)
    assert same(everything(one), everything(again))
    assert not same(everything(one), everything(elsewhere))


def test_every_update_draws_noise_of_its_own(windows):
    still = distiller(optimizer=AdamWConfig(lr=1e-30), critic_lr=1e-30)  # no weight moves, so only the draws can differ
    for update in (still.update_critic, still.update_student):
        losses = {next(value for name, value in update(windows).items() if "loss" in name) for _ in range(3)}
        assert len(losses) == 3


def test_both_ways_of_replay_give_the_same_loss_and_gradient_from_the_same_seed(windows):
    masked, blockwise = (distiller(replay=replay) for replay in ("masked", "blockwise"))
    for update in ("update_critic", "update_student"):
        one, other = getattr(masked, update)(windows), getattr(blockwise, update)(windows)
        assert other == pytest.approx({name: one[name] for name in other}, rel=1e-3, abs=1e-5)


def test_the_distance_to_the_recorded_x0_is_rounding_at_age_0_and_is_logged_by_age(windows):
    trained = distiller(optimizer=AdamWConfig(lr=1e-3, weight_decay=0.0))
    fresh = trained.update_student(windows)
    assert fresh["replay/distance_age_0"] <= 1e-5 and fresh["replay/age"] == 0
    stale = trained.update_student([replace(windows[0], age=1), windows[1], replace(windows[2], age=1)])
    assert stale["replay/distance_age_1"] > 1e-3 and stale["replay/age"] == pytest.approx(2 / 3)
    assert "replay/distance_age_0" in stale and "replay/distance_age_2" not in stale


def test_no_distance_is_logged_where_there_is_no_recorded_x0_to_compare_with(windows):
    assert not any("distance" in name for name in distiller(noising="fresh").update_student(windows))
    earlier = [replace(window, step=1) for window in windows]
    assert not any("distance" in name for name in distiller().update_student(earlier))


def test_the_teacher_is_frozen_and_starts_nothing(windows):
    trained = distiller()
    assert not any(p.requires_grad for p in trained.scores.teacher.parameters())
    assert not trained.scores.teacher.training
    assert "teacher" not in trained.state()[0]
    assert trained.state()[1] == {"student": 0, "critic": 0}


@pytest.mark.parametrize("part", ["student", "critic"])
def test_a_window_counts_in_the_loss_as_much_as_it_weighs(windows, part):
    def loss(*weights: float) -> float:
        trained = distiller()
        weighed = [replace(window, weight=weight) for window, weight in zip(windows, weights, strict=True)]
        return getattr(trained, f"update_{part}")(weighed)[f"{part}/loss"]

    alone = [loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)]
    assert loss(0.5, 1, 2) == pytest.approx(0.5 * alone[0] + alone[1] + 2 * alone[2], rel=1e-5)
    assert getattr(distiller(), f"update_{part}")(windows)[f"{part}/loss"] == loss(1, 1, 1)


def test_what_is_drawn_for_a_window_depends_on_its_place_and_not_on_the_micro_batch(windows):
    whole, cut = distiller(), distiller(micro_batch=1)
    for update in ("update_critic", "update_student"):
        one, other = getattr(whole, update)(windows), getattr(cut, update)(windows)
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert whole.update_critic(windows)["critic/loss"] != whole.update_critic(windows[::-1])["critic/loss"]
