import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.group_actor import GroupActor
from actors.rollout_config import WindowConfig
from learner.grpo import BurnInTooShort, PolicyLearner, SentinelFell
from learner.policy_batches import PolicyBatches
from learner.policy_config import GrpoConfig
from learner.score_distillation import ScoreDistillation
from learner.stage_config import DmdConfig, LearnerConfig
from models.frequencies import low_pass
from models.network_config import StudentConfig
from models.records import GRPO, SENTINEL, Group, GroupPlan, Rollout, Weights
from models.worlds.tiny_world import PROMPTS, encode_text
from models.worlds.video_codec import TinyCodec
from rewards.sentinels import SentinelConfig
from tests.learner.networks import network

SHAPE = StudentConfig(height=4, width=8, horizon_frames=6, attention_frames=6)
FULL = (SHAPE.wan.num_layers - 1) * SHAPE.context_frames
LAST = len(SHAPE.timesteps) - 1
MEMBERS, FRAMES = 4, 12
CONFIG = GrpoConfig(
    groups=2, minibatches=1, dmd_weight=0.0, kl=0.0, lr=1e-3, clip=0.5, weight_decay=0.0, transition_weights=[1, 1, 1]
)


class Shelf:
    """The one version of the weights that there is."""

    def newer(self, than: int | None) -> Weights | None:
        return Weights.of(0, network(0)) if than is None else None


def rolled(burn_in_frames: int, starts: Sequence[int], coarse: float = 1.0) -> list[Group]:
    """Groups of version 0 by a real actor, one video each; random scores of two windows."""
    actor = GroupActor(SHAPE, WindowConfig(frames=6, burn_in_frames=burn_in_frames), encode_text, TinyCodec(), Shelf())
    rollouts = [
        Rollout(
            i,
            0,
            PROMPTS[i],
            11 + i,
            60,
            (GroupPlan(GRPO, start, LAST, 0, MEMBERS, FRAMES, (0, 1, 2), (0,), coarse, False),),
        )
        for i, start in enumerate(starts)
    ]
    made = [item for item in actor.windows(rollouts) if isinstance(item, Group)]
    drawn = torch.rand(len(made), MEMBERS, 2, generator=torch.Generator().manual_seed(0))
    return [replace(group, scores={"r": drawn[group.rollout].tolist()}) for group in made]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """One that forks at the beginning, and one long after the cache has rolled."""
    return rolled(FULL, (0, 24))


def learner(
    config: GrpoConfig = CONFIG, micro_batch: int | None = None, sentinel: SentinelConfig | None = None
) -> PolicyLearner:
    student, own = network(0), LearnerConfig(micro_batch=micro_batch)
    scores = None
    if config.dmd_weight:
        scores = ScoreDistillation(student, network(1), network(2), encode_text, SHAPE, DmdConfig(), own, 5)
    return PolicyLearner(
        student, scores, network(0) if config.kl else None, encode_text, SHAPE, config, own,
        rewards={"r": 1.0}, sentinel=sentinel or SentinelConfig(metrics=["seen"]), window_frames=6,
    )  # fmt: skip


def terms_of(trained: PolicyLearner, groups: Sequence[Group]) -> Tensor:
    """[N 5] of one pass without a step: exponent, clipped, moving, KL, count."""
    advantages = trained._advantages(groups)
    terms: list[Tensor] = []
    for _, parts in trained._remember(groups, advantages):
        list(trained.policy.losses(parts, terms))
    return torch.cat(terms)


def everything(trained: PolicyLearner) -> dict[str, Tensor]:
    return {f"{group}/{name}": t for group, tensors in trained.state()[0].items() for name, t in tensors.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
@pytest.mark.parametrize("micro_batch", [None, 3, 8])
def test_every_ratio_is_1_to_the_last_bit_before_the_first_step(groups, loss, micro_batch):
    terms = terms_of(learner(replace(CONFIG, loss=loss), micro_batch), groups)
    assert len(terms) == 2 * MEMBERS * 3 * (FRAMES // 3)
    assert (terms[:, 0] == 0).all()
    assert terms[:, 2].all(), "every term has an advantage"


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
def test_the_actors_record_is_the_learners_replay_for_every_transition(groups, loss):
    trained = learner(replace(CONFIG, loss=loss))
    (_, parts), *_ = trained._remember(groups, trained._advantages(groups))
    replay = torch.cat([part.replay for part in parts])
    assert len(replay) == 2 * MEMBERS * 3 * (FRAMES // 3)
    assert replay[:, 0].max() <= 1e-6
    assert (replay[:, 1] == 1).all() and not replay[:, 2].any()


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
def test_coarse_members_are_compared_by_their_coarse_part_alone(loss):
    made = rolled(FULL, (0, 24), coarse=0.5)
    batches = PolicyBatches(network(0), None, encode_text, SHAPE, replace(CONFIG, loss=loss), LearnerConfig(), 0.5)
    values = torch.ones(2, MEMBERS, 2, dtype=torch.float64)
    (part,) = batches.snapshot(made, values, values.bool())
    assert part.replay[:, 0].max() <= 1e-5

    fine = torch.randn(made[0].samples.shape, generator=torch.Generator().manual_seed(1))
    fine -= low_pass(fine, 0.5)
    moved = [replace(group, samples=group.samples + fine, behaviour=group.behaviour - fine) for group in made]
    (other,) = batches.snapshot(moved, values, values.bool())
    assert torch.allclose(other.samples, part.samples, atol=1e-5)
    assert torch.allclose(other.replay[:, 0], part.replay[:, 0], atol=1e-5)


def test_a_burn_in_that_misses_the_actors_policy_is_refused_before_the_first_step():
    trained = learner(replace(CONFIG, clip=1e-5))
    with pytest.raises(BurnInTooShort, match=r"group\.burn_in_frames"):
        trained.update(rolled(0, (24, 27)))
    assert trained.step == 0 and trained.optimizer.updates == 0


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio", "regression"])
def test_a_round_makes_the_better_members_likelier_than_the_worse(groups, loss):
    trained = learner(replace(CONFIG, loss=loss, passes=3, lr=3e-4))
    better = [torch.cat([part.advantage > 0 for part in parts]) for _, parts in
              trained._remember(groups, trained._advantages(groups))]  # fmt: skip
    remembered = trained._remember(groups, trained._advantages(groups))
    trained.update(groups)
    terms: list[Tensor] = []
    probe = learner(replace(CONFIG, loss="ppo"))
    probe.policy.student = trained.student
    for _, parts in remembered:
        list(probe.policy.losses(parts, terms))
    exponent = torch.cat(terms)[:, 0]
    assert exponent[torch.cat(better)].mean() > exponent[~torch.cat(better)].mean()


def test_micro_batches_and_one_batch_give_the_same_student(groups):
    whole, parts = learner(), learner(micro_batch=4)
    for trained in (whole, parts):
        trained.update(groups)
    for name, weight in everything(whole).items():
        torch.testing.assert_close(everything(parts)[name], weight, rtol=1e-3, atol=1e-6)


def test_a_member_without_a_score_is_not_learned_from(groups):
    """Neither its transitions nor its frames matter; its siblings are compared without it."""

    def with_missing(latents_of_it: float) -> list[Group]:
        first, second = groups
        scores = [row if member else [math.nan, math.nan] for member, row in enumerate(first.scores["r"])]
        samples, states = first.samples.clone(), first.states.clone()
        samples[0] += latents_of_it
        states[0] += latents_of_it
        return [replace(first, scores={"r": scores}, samples=samples, states=states), second]

    one, other = learner(replace(CONFIG, clip=0.9)), learner(replace(CONFIG, clip=0.9))
    metrics = one.update(with_missing(0.0))
    other._replay_metrics = lambda minibatches: {}  # its record was changed on purpose
    other.update(with_missing(1.0))
    assert metrics["policy/masked"] == pytest.approx(1 / (2 * MEMBERS))
    assert same(everything(one), everything(other))


def test_old_groups_count_by_their_tempered_likelihood_and_outliers_do_not_count(groups):
    aged = [replace(group, age=2, behaviour=group.behaviour + 0.05 * (i == 1)) for i, group in enumerate(groups)]
    trained = learner(replace(CONFIG, correction_mask=5.0, correction_cap=1.5))
    trained.step = 1
    (_, parts), *_ = trained._remember(aged, trained._advantages(aged))
    weights = torch.cat([part.replay[:, 1] for part in parts])
    half = len(weights) // 2
    torch.testing.assert_close(weights[:half], torch.ones_like(weights[:half]), rtol=0, atol=1e-4)
    assert (weights[half:] - 1).abs().max() > 0.01
    assert weights.max() <= 1.5
    wild = [replace(group, age=2, behaviour=group.behaviour + 100.0) for group in groups]
    metrics = trained.update(wild)
    assert metrics["policy/outliers"] == 1 and metrics["policy/effective_samples"] == 0


def test_the_clip_stops_terms_in_later_steps_of_a_round(groups):
    tight, wide = (learner(replace(CONFIG, passes=4, clip=clip)).update(groups) for clip in (1e-4, 0.9))
    assert tight["policy/clipped"] > 0.1
    assert wide["policy/clipped"] == 0


def test_the_kl_term_holds_the_student_to_where_it_started(groups):
    free, held = (learner(replace(CONFIG, kl=kl, passes=6)) for kl in (1e-9, 100.0))
    distances = [trained.update(groups)["policy/kl"] for trained in (free, held)]
    assert 0 < distances[1] < distances[0]


def test_with_dmd_the_critic_follows_and_the_teacher_stays(groups):
    trained = learner(replace(CONFIG, dmd_weight=1.0, critic_warmup=1, critic_updates=2, dmd_members=3))
    critic, teacher = ([p.clone() for p in net.parameters()] for net in (trained.scores.critic, trained.scores.teacher))
    student = [p.clone() for p in trained.student.parameters()]
    metrics = trained.update(groups)
    assert trained.scores.critic_optimizer.updates == 2 and trained.optimizer.updates == 0, "a round of warm-up"
    assert all(torch.equal(a, b) for a, b in zip(student, trained.student.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(critic, trained.scores.critic.parameters(), strict=True))
    metrics = trained.update(groups)
    assert trained.optimizer.updates == 1 and metrics["student/dmd_gradient"] > 0
    assert all(torch.equal(a, b) for a, b in zip(teacher, trained.scores.teacher.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{}, {"dmd_weight": 0.5, "critic_warmup": 0}, {"kl": 0.1}])
def test_a_restored_learner_goes_on_bit_for_bit(groups, changes):
    config = replace(CONFIG, passes=2, **changes)
    trained, restored = learner(config), learner(config)
    trained.watch([look(0.5)])
    trained.update(groups)
    restored.load_state(*trained.state())
    assert restored.step == 1 and restored.watched == {"seen": 0.5}
    for one in (trained, restored):
        one.update(groups)
    assert same(everything(trained), everything(restored))


def look(score: float) -> Group:
    empty = torch.zeros(1, 0, 12, *SHAPE.frame_shape)
    latents = torch.zeros(1, 12, *SHAPE.frame_shape)
    return Group(
        rollout=0, attempt=0, index=0, role=SENTINEL, prompt=PROMPTS[0], seed=0, start=0, step=LAST, transitions=(),
        versions=(0,) * 4, context=latents[0, :0], latents=latents, noisy=latents, states=empty, samples=empty,
        behaviour=empty, scores={"seen": [[score, score]]},
    )  # fmt: skip


def test_a_sentinel_that_falls_stops_the_run_and_names_itself():
    trained = learner()
    assert trained.watch([look(0.6), look(0.4)])["sentinel/seen"] == pytest.approx(0.5)
    trained.watch([look(0.46)])
    with pytest.raises(SentinelFell, match=r"seen from 0\.500 to 0\.440"):
        trained.watch([look(0.44)])


def test_a_sentinel_that_falls_lowers_the_rate_where_that_is_asked_for(groups):
    sentinel = SentinelConfig(metrics=["seen"], action="lower_rate", rate_factor=0.25)
    trained = learner(sentinel=sentinel)
    trained.watch([look(0.5)])
    assert trained.watch([look(0.4)])["student/rate"] == 0.25
    trained.update(groups)
    assert trained.optimizer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25 * CONFIG.lr)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_cosine_schedule_ends_with_the_stage_and_knows_how_many_steps_a_round_takes(groups, minibatches):
    config = replace(CONFIG, schedule="cosine", steps=4, minibatches=minibatches, passes=2)
    trained, rates = learner(config), []
    for _ in range(config.steps):
        trained.update([replace(group, age=len(rates)) for group in groups])
        rates.append(trained.optimizer.optimizers[0].param_groups[0]["lr"])
    assert trained.optimizer.updates == config.updates == 8 * minibatches
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.1 * config.lr
    assert replace(config, dmd_weight=1.0, critic_warmup=3).updates == 2 * minibatches


def test_a_sentinel_that_could_not_be_measured_has_not_fallen():
    trained = learner()
    trained.watch([look(0.5)])
    trained.watch([look(math.nan)])
    assert trained.optimizer.rate == 1


def test_a_sentinel_that_never_had_a_score_stops_the_run_at_the_first_look():
    with pytest.raises(SentinelFell, match=r"nothing could be scored by .* of sentinel\.metrics"):
        learner().watch([look(math.nan)])
