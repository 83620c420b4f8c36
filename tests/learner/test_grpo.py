import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.group_actor import GroupActor
from actors.rollout_config import WindowConfig
from learner.build import LearnerParts, policy_learner
from learner.grpo import BurnInTooShort, PolicyLearner
from learner.parallel.collectives import all_gather_columns
from learner.policy_batches import PolicyBatches, TermColumns
from learner.policy_config import GrpoConfig
from learner.sentinel_watch import SentinelFell
from learner.stage_config import AdamWConfig, DmdConfig, LearnerConfig
from models.frequencies import low_pass
from models.network_config import StudentConfig
from models.records import GRPO, SENTINEL, Group, GroupPlan, Rollout, Weights
from models.wan.network import ComputeSpec
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from rewards.sentinels import SentinelConfig
from tests.fakes.fixed_weights import FixedWeights
from tests.learner.networks import SHALLOW, network
from tests.learner.saved_state import in_files

SHAPE = StudentConfig(model=SHALLOW, height=4, width=8, horizon_frames=6, attention_frames=6)
FULL = (SHAPE.wan.num_layers - 1) * SHAPE.context_frames
LAST = len(SHAPE.timesteps) - 1
MEMBERS, FRAMES = 4, 12
CONFIG = GrpoConfig(
    groups=2,
    minibatches=1,
    dmd_weight=0.0,
    kl=0.0,
    optimizer=AdamWConfig(lr=1e-3, weight_decay=0.0),
    clip=0.5,
    transition_weights=[1, 1, 1],
)


def rolled(
    burn_in_frames: int, starts: Sequence[int], coarse: float = 1.0, dtype: torch.dtype = torch.float32
) -> list[Group]:
    """Groups of version 0 by a real actor, one video each; random scores of two windows."""
    actor = GroupActor(
        SHAPE,
        WindowConfig(frames=6, burn_in_frames=burn_in_frames),
        encode_text,
        TinyCodec(),
        FixedWeights(Weights.of(0, network(0).to(dtype))),
        ComputeSpec(dtype=dtype),
    )
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
    networks = {"student": network(0), "critic": network(1), "teacher": network(2)}
    if config.kl:
        networks["reference"] = network(0)
    parts = LearnerParts(
        student=SHAPE, teacher_wan=SHAPE.wan, learner=LearnerConfig(micro_batch=micro_batch), encode_text=encode_text,
        seed=5, device=torch.device("cpu"),
    )  # fmt: skip
    return policy_learner(
        parts, config, DmdConfig(), sentinel or SentinelConfig(metrics=["seen"]),
        rewards=lambda _: {"r": 1.0}, window_frames=6, networks=networks,
    )  # fmt: skip


def terms_of(trained: PolicyLearner, groups: Sequence[Group]) -> TermColumns:
    """Terms of one pass without a step."""
    terms: list[TermColumns] = []
    for _, parts in trained._minibatches(groups)[1]:
        list(trained.policy.losses(parts, terms))
    return all_gather_columns(terms)


def everything(trained: PolicyLearner) -> dict[str, Tensor]:
    return {f"{group}/{name}": t for group, tensors in trained.state()[0].items() for name, t in tensors.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
@pytest.mark.parametrize("micro_batch", [None, 3, 8])
def test_every_ratio_is_1_to_the_last_bit_before_the_first_step(groups, loss, micro_batch):
    terms = terms_of(learner(replace(CONFIG, loss=loss), micro_batch), groups)
    assert len(terms.exponent) == 2 * MEMBERS * 3 * (FRAMES // 3)
    assert (terms.exponent == 0).all()
    assert terms.moving.all(), "every term has an advantage"


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
def test_the_actors_record_is_the_learners_replay_for_every_transition(groups, loss):
    trained = learner(replace(CONFIG, loss=loss))
    (_, parts), *_ = trained._minibatches(groups)[1]
    replay = all_gather_columns([part.replay for part in parts])
    assert len(replay.error) == 2 * MEMBERS * 3 * (FRAMES // 3)
    assert replay.error.max() <= 1e-6
    assert (replay.weight == 1).all() and not replay.masked.any()


def test_in_bfloat16_too_the_actors_record_is_the_learners_replay_wherever_in_the_video():
    """Rounding goes by a key's position, so a replay that counted frames from its own first one would be off."""
    made = rolled(FULL, (0, 24, 48), dtype=torch.bfloat16)
    batches = PolicyBatches(network(0).to(torch.bfloat16), None, encode_text, SHAPE, CONFIG, micro_batch=4)
    values = torch.ones(3, MEMBERS, 2, dtype=torch.float64)
    errors = torch.cat([part.replay.error for part in batches.snapshot(made, values, values.bool())])
    assert len(errors) == 3 * MEMBERS * 3 * (FRAMES // 3) and errors.max() <= 1e-6


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio"])
def test_coarse_members_are_compared_by_their_coarse_part_alone(loss):
    made = rolled(FULL, (0, 24), coarse=0.5)
    batches = PolicyBatches(network(0), None, encode_text, SHAPE, replace(CONFIG, loss=loss), coarse=0.5)
    values = torch.ones(2, MEMBERS, 2, dtype=torch.float64)
    (part,) = batches.snapshot(made, values, values.bool())
    assert part.replay.error.max() <= 1e-5

    fine = torch.randn(made[0].samples.shape, generator=torch.Generator().manual_seed(1))
    fine -= low_pass(fine, 0.5)
    moved = [replace(group, samples=group.samples + fine, behaviour=group.behaviour - fine) for group in made]
    (other,) = batches.snapshot(moved, values, values.bool())
    assert torch.allclose(other.samples, part.samples, atol=1e-5)
    assert torch.allclose(other.replay.error, part.replay.error, atol=1e-5)


def test_a_burn_in_that_misses_the_actors_policy_is_refused_before_the_first_step():
    trained = learner(replace(CONFIG, clip=1e-5))
    with pytest.raises(BurnInTooShort, match=r"group\.burn_in_frames"):
        trained.update(rolled(0, (24, 27)))
    assert trained.step == 0 and trained.student.updates == 0


@pytest.mark.parametrize("loss", ["ppo", "ratio_norm", "x0_ratio", "regression"])
def test_a_round_makes_the_better_members_likelier_than_the_worse(groups, loss):
    trained = learner(replace(CONFIG, loss=loss, passes=3, optimizer=AdamWConfig(lr=3e-4, weight_decay=0.0)))
    better = [torch.cat([part.advantage > 0 for part in parts]) for _, parts in
              trained._minibatches(groups)[1]]  # fmt: skip
    remembered = trained._minibatches(groups)[1]
    trained.update(groups)
    terms: list[TermColumns] = []
    probe = learner(replace(CONFIG, loss="ppo"))
    probe.policy.student = trained.student.network
    for _, parts in remembered:
        list(probe.policy.losses(parts, terms))
    exponent = all_gather_columns(terms).exponent
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
    (_, parts), *_ = trained._minibatches(aged)[1]
    weights = torch.cat([part.replay.weight for part in parts])
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
    student = [p.clone() for p in trained.student.network.parameters()]
    metrics = trained.update(groups)
    assert trained.critic.updates == 2 and trained.student.updates == 0, "a round of warm-up"
    assert all(torch.equal(a, b) for a, b in zip(student, trained.student.network.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(critic, trained.scores.critic.parameters(), strict=True))
    metrics = trained.update(groups)
    assert trained.student.updates == 1 and metrics["student/dmd_gradient"] > 0
    assert all(torch.equal(a, b) for a, b in zip(teacher, trained.scores.teacher.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{}, {"dmd_weight": 0.5, "critic_warmup": 0}, {"kl": 0.1}])
def test_a_restored_learner_goes_on_bit_for_bit(groups, changes, tmp_path):
    config = replace(CONFIG, passes=2, **changes)
    trained, restored = learner(config), learner(config)
    trained.sentinels.check([look(0.5)], trained.step)
    trained.update(groups)
    tensors, plain = trained.state()
    restored.load_state(in_files(tmp_path, tensors), plain)
    assert restored.step == 1 and restored.sentinels.first == {"seen": 0.5}
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
    assert trained.sentinels.check([look(0.6), look(0.4)], trained.step)["sentinel/seen"] == pytest.approx(0.5)
    trained.sentinels.check([look(0.46)], trained.step)
    with pytest.raises(SentinelFell, match=r"\bseen\b.*0\.500 .*0\.440"):
        trained.sentinels.check([look(0.44)], trained.step)


def test_a_sentinel_that_falls_lowers_the_rate_where_that_is_asked_for(groups):
    sentinel = SentinelConfig(metrics=["seen"], action="lower_rate", rate_factor=0.25)
    trained = learner(sentinel=sentinel)
    trained.sentinels.check([look(0.5)], trained.step)
    assert trained.sentinels.check([look(0.4)], trained.step)["student/rate"] == 0.25
    trained.update(groups)
    assert trained.student.optimizer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25 * CONFIG.optimizer.lr)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_cosine_schedule_ends_with_the_stage_and_knows_how_many_steps_a_round_takes(groups, minibatches):
    config = replace(CONFIG, schedule="cosine", steps=4, minibatches=minibatches, passes=2)
    trained, rates = learner(config), []
    for _ in range(config.steps):
        trained.update([replace(group, age=len(rates)) for group in groups])
        rates.append(trained.student.optimizer.optimizers[0].param_groups[0]["lr"])
    assert trained.student.updates == config.updates == 8 * minibatches
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.1 * config.optimizer.lr
    assert replace(config, dmd_weight=1.0, critic_warmup=3).updates == 2 * minibatches


def test_a_sentinel_that_could_not_be_measured_has_not_fallen():
    trained = learner()
    trained.sentinels.check([look(0.5)], trained.step)
    trained.sentinels.check([look(math.nan)], trained.step)
    assert trained.student.optimizer.lr_scale == 1


def test_a_sentinel_that_never_had_a_score_stops_the_run_at_the_first_look():
    with pytest.raises(SentinelFell, match=r"sentinel\.metrics"):
        learner().sentinels.check([look(math.nan)], 0)
