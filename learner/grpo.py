"""Stage `grpo`: continuations of a shared past are compared, and the better ones made likelier (Eq. 5 to 7).

The policy is the student's own re-noising; nothing is converted to an SDE. A round is one batch of groups: what the
student says of their transitions before the first step is remembered, and every ratio is to that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from learner.losses.advantages import Advantages, combine
from learner.losses.policy import effective_sample_size
from learner.optimizer import Optimizer, adamw
from learner.parallel import collectives
from learner.parallel.micro_batches import own_places
from learner.policy_batches import PolicyBatch, PolicyBatches
from learner.policy_config import GrpoConfig
from learner.score_distillation import ScoreDistillation, metrics_by_age
from learner.stage_config import LearnerConfig
from learner.trained_student import TrainedStudent
from learner.transitions import windows_for_scores
from models.errors import StopsRun
from models.network_config import StudentConfig
from models.noise import Draw
from models.records import Group, Window
from models.wan.network import Wan
from rewards.sentinels import SentinelConfig, fallen

Minibatch = tuple[Sequence[Group], list[PolicyBatch]]


class BurnInTooShort(StopsRun):
    """The learner's replay misses the actors' policy by more than the clip lets the policy move."""


class SentinelFell(StopsRun):
    """A held-out metric paid for the rewards, or cannot tell whether it does."""


class PolicyLearner:
    """The student as a policy, held by the extended DMD loss, by a KL term to where it started, or by both.

    Every rank calls every method, with its own share of the groups, which is whole groups.
    """

    def __init__(
        self,
        student: Wan,
        scores: ScoreDistillation | None,
        reference: Wan | None,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: GrpoConfig,
        learner: LearnerConfig,
        *,
        rewards: Mapping[str, float],
        sentinel: SentinelConfig,
        window_frames: int,
        coarse: float = 1.0,
    ):
        """`scores` for grpo.dmd_weight above 0, `reference` for grpo.kl above 0; `rewards` are names and weights.

        `window_frames` is the length of the windows that the extended DMD loss sees, `coarse` the share of the spatial
        frequencies in which members differ.
        """
        self.student, self.scores, self.config = student, scores, config
        self.block_frames, self.window_frames = shape.block_frames, window_frames
        self.rewards, self.sentinel = dict(rewards), sentinel
        self.policy = PolicyBatches(student, reference, encode_text, shape, config, learner, coarse)
        self.trained = TrainedStudent(student, config.ema_decay, learner)
        own = adamw(student, config.lr, (config.beta1, config.beta2), config.weight_decay)
        self.optimizer = Optimizer(
            "student", student, own, lr_key="grpo.lr", grad_clip=config.grad_clip,
            cosine_steps=config.updates if config.schedule == "cosine" else None,
        )  # fmt: skip
        self.step = 0
        """Rounds done."""
        self.watched: dict[str, float] = {}
        """The sentinels' first values."""
        self.last_good = 0
        """Round after which the sentinels last saw nothing wrong."""

    # -- a round ------------------------------------------------------------------------------------------------

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One round: the critic follows the student, then a few steps up the advantages of these groups.

        Raises BurnInTooShort before a step on groups as young as the weights, and NonFiniteError before a broken one.
        """
        advantages = self._advantages(groups)
        minibatches = self._snapshot(groups, advantages)
        metrics = _reward_metrics(advantages) | self._replay_metrics(minibatches)
        for _ in range(self.config.critic_updates if self.scores is not None else 0):
            windows = self._windows(groups, self.scores.critic_optimizer.updates)
            metrics |= self.scores.update_critic(windows)
        if self.scores is None or self.step >= self.config.critic_warmup:
            metrics |= self._update_student(minibatches)
        self.step += 1
        return metrics

    def _advantages(self, groups: Sequence[Group]) -> Advantages:
        """Of all ranks' groups, because a spread may be that of the whole batch."""
        scores = {}
        for name in self.rewards:
            own = torch.tensor([group.scores[name] for group in groups], dtype=torch.float64)
            scores[name] = collectives.all_gather_cat(own.to(self.policy.device)).cpu()
        c = self.config
        return combine(scores, self.rewards, c.gamma, c.std_scope, c.std_floor, c.advantage_clip)

    def _snapshot(self, groups: Sequence[Group], advantages: Advantages) -> list[Minibatch]:
        """This rank's groups, dealt to the steps of a pass: each step has the same ones on any number of ranks."""
        mine = own_places(len(groups) * collectives.size())
        values, valid = (x[mine.start : mine.stop] for x in (advantages.values, advantages.valid))
        cuts = [slice(first, None, self.config.minibatches) for first in range(self.config.minibatches)]
        return [(groups[cut], self.policy.snapshot(groups[cut], values[cut], valid[cut])) for cut in cuts]

    def _update_student(self, minibatches: Sequence[Minibatch]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        terms: list[Tensor] = []
        for own, parts in list(minibatches) * self.config.passes:
            metrics |= self._step(own, parts, terms)
            self.trained.ema.update(self.student)
        return metrics | _term_metrics(collectives.all_gather_cat(torch.cat(terms)))

    def _step(self, groups: Sequence[Group], parts: Sequence[PolicyBatch], terms: list[Tensor]) -> dict[str, float]:
        """One step of the optimiser on a minibatch; appends what its terms were."""
        losses, count = self.policy.losses(parts, terms), len(parts)
        measured: list[Tensor] = []
        if self.scores is not None:
            turn = self.optimizer.updates
            scored, more = self.scores.parts(self._windows(groups, turn), Draw.STUDENT_UPDATE, turn)
            weight = self.config.dmd_weight
            losses = chain(losses, (weight * self.scores.student_loss(part, measured) for part in scored))
            count += more
        metrics = self.optimizer.step(losses, count)
        return metrics | (metrics_by_age(collectives.all_gather_cat(torch.cat(measured))) if measured else {})

    def _windows(self, groups: Sequence[Group], turn: int) -> list[Window]:
        """What the extended DMD loss and the critic see of these groups."""
        return windows_for_scores(groups, self.config.dmd_members, self.window_frames, self.block_frames, turn)

    def _replay_metrics(self, minibatches: Sequence[Minibatch]) -> dict[str, float]:
        """Raises BurnInTooShort where the weights are still those that the actors had, and the replay is not theirs.

        That is so in the first round, and later for groups that nothing was learned between.
        """
        replay = collectives.all_gather_cat(torch.cat([part.replay for _, parts in minibatches for part in parts]))
        errors = replay[:, 0][~replay[:, 0].isnan()]
        worst = float(errors.max()) if len(errors) else math.nan
        if worst > self.config.clip / 2:
            raise BurnInTooShort(
                f"the learner's replay of the actors' transitions is off by up to {worst:.1e} in the ratio, more than "
                f"half of grpo.clip = {self.config.clip}; raise group.burn_in_frames or grpo.clip"
            )
        found = {
            "policy/effective_samples": effective_sample_size(replay[:, 1]),
            "policy/outliers": float(replay[:, 2].mean()),
        }
        if len(errors):
            found |= {"policy/replay_error": float(errors.mean()), "policy/replay_error_max": worst}
        return found

    # -- what watches it ----------------------------------------------------------------------------------------

    def watch(self, looks: Sequence[Group]) -> dict[str, float]:
        """Compare what the sentinels see now with what they saw first; `looks` are all of them, on every rank.

        Raises SentinelFell when one has never had a score, and when one has fallen by more than sentinel.tolerance,
        or then lowers the rate.
        """
        now = {}
        for name in self.sentinel.metrics:
            seen = torch.tensor([look.scores[name] for look in looks], dtype=torch.float64)
            now[name] = float(seen.nanmean())
        self.watched = {name: value for name, value in now.items() if not math.isnan(value)} | self.watched
        if blind := sorted(now.keys() - self.watched.keys()):
            raise SentinelFell(
                f"nothing could be scored by {', '.join(blind)} of sentinel.metrics, the guard over rewards; the lines "
                "above say why: mend it, or leave it out of sentinel.metrics"
            )
        lost = fallen(self.watched, now, self.sentinel.tolerance)
        if lost and self.sentinel.action == "stop":
            told = ", ".join(f"{name} from {self.watched[name]:.3f} to {now[name]:.3f}" for name in lost)
            raise SentinelFell(
                f"after round {self.step} held-out metrics have fallen by more than sentinel.tolerance = "
                f"{self.sentinel.tolerance}: {told}. All was well after round {self.last_good}; in a new run_dir raise "
                "grpo.dmd_weight or grpo.kl, or lower grpo.lr"
            )
        if not lost:
            self.last_good = self.step
        else:
            self.optimizer.rate *= self.sentinel.rate_factor
        seen = {f"sentinel/{name}": value for name, value in now.items() if not math.isnan(value)}
        return seen | {"student/rate": self.optimizer.rate}

    # -- weights and checkpoints --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """See `TrainedStudent.weights`."""
        return self.trained.weights()

    def averaged(self) -> dict[str, Tensor]:
        """See `TrainedStudent.averaged`."""
        return self.trained.averaged()

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
        """Everything a resumed run needs, the tensors on rank 0 only; the reference comes from the run's start."""
        tensors = self.trained.state() | {"student_optimizer": self.optimizer.state()}
        plain = {"rounds": self.step, "student": self.optimizer.updates, "rate": self.optimizer.rate}
        if self.scores is not None:
            tensors |= self.scores.critic_state()
            plain["critic"] = self.scores.critic_optimizer.updates
        return tensors, plain | {"watched": dict(self.watched), "last_good": self.last_good}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, object]) -> None:
        """Put back what `state` gave, whole on every rank. Raises ValueError."""
        self.trained.load_state(tensors)
        self.optimizer.load_state(tensors.get("student_optimizer", {}), state["student"])
        if self.scores is not None:
            self.scores.load_critic(tensors, state["critic"])
        self.step, self.optimizer.rate, self.watched = state["rounds"], state["rate"], dict(state["watched"])
        self.last_good = state["last_good"]


def _reward_metrics(advantages: Advantages) -> dict[str, float]:
    found = {"policy/zero_spread": advantages.zero_spread, "policy/masked": float((~advantages.valid).double().mean())}
    for name, told in advantages.rewards.items():
        found |= {f"reward/{name}/{what}": value for what, value in told._asdict().items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _term_metrics(terms: Tensor) -> dict[str, float]:
    """From [N 5] of `PolicyBatches.losses`, over all steps of a round."""
    exponent, clipped, moving, distance, count = terms.unbind(dim=1)
    exponent, clipped, moving, distance = (x[count > 0] for x in (exponent, clipped, moving, distance))
    if not len(exponent):
        return {}
    ratio = exponent.exp()
    return {
        "policy/ratio_mean": float(ratio.mean()),
        "policy/ratio_std": float(ratio.std(correction=0)),
        "policy/ratio_max": float((ratio - 1).abs().max()),
        "policy/clipped": float(clipped.sum() / moving.sum().clamp_min(1)),
        "policy/kl": float(distance.mean()),
    }
