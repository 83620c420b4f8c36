"""Train stage `grpo`: compare continuations of a shared past, and make the better ones likelier (Eq. 5 to 7).

The policy is the student's own re-noising; nothing is converted to an SDE. A round is one batch of groups: the
student's predictions for their transitions before the first step are kept, and every ratio is to those.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain

import torch
from torch import Tensor

from learner.losses.advantages import Advantages, combine
from learner.losses.policy import effective_sample_size
from learner.member_windows import windows_for_scores
from learner.parallel import collectives
from learner.parallel.shard_files import ShardFiles
from learner.policy_batches import PolicyBatch, PolicyBatches, TermColumns
from learner.policy_config import GrpoConfig
from learner.score_distillation import ScoreDistillation, WindowMeasures
from learner.sentinel_watch import SentinelWatch
from learner.trained_network import TrainedNetwork
from models.errors import StopsRun
from models.records import Group, Window

Minibatch = tuple[Sequence[Group], list[PolicyBatch]]


class BurnInTooShort(StopsRun):
    """Stops a run whose replay misses the actors' policy by more than the clip lets the policy move.

    Its first advice is a key that a resumed run may change: the folder is claimed by now.
    """


@dataclass(eq=False)
class PolicyLearner:
    """Trains the student as a policy, held by extended DMD, by a KL term to its start, or both.

    Every rank calls every method, with its own share of the groups, which is whole groups.
    """

    student: TrainedNetwork
    policy: PolicyBatches
    config: GrpoConfig
    sentinels: SentinelWatch
    _: KW_ONLY
    rewards: Callable[[int], Mapping[str, float]]
    """Weights by reward in a round."""
    window_frames: int
    """Length of the windows that the extended DMD loss sees, in latent frames."""
    scores: ScoreDistillation | None = None
    """Extended DMD loss; like `critic`, set only for grpo.dmd_weight above 0."""
    critic: TrainedNetwork | None = None
    step: int = 0
    """Rounds done."""

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """Run one round: update the critic, then take policy-gradient steps on these groups.

        Raises BurnInTooShort before a step on groups as young as the weights, and NonFiniteError before a broken one.
        """
        advantages, minibatches = self._minibatches(groups)
        metrics = {
            "policy/zero_spread": advantages.zero_spread,
            "policy/masked": float((~advantages.valid).double().mean()),
        }
        for name, statistics in advantages.rewards.items():
            metrics |= {f"reward/{name}/{field}": value for field, value in statistics._asdict().items()}
        metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
        metrics |= self._replay_metrics(minibatches)
        for _ in range(self.config.critic_updates if self.critic is not None else 0):
            windows = self._windows(groups, self.critic.updates)
            metrics |= self.critic.optimizer.step(*self.scores.critic_losses(windows, self.critic.updates))
        if self.critic is None or self.step >= self.config.critic_warmup:
            terms: list[TermColumns] = []
            for own, parts in minibatches * self.config.passes:
                losses, count = self.policy.losses(parts, terms), len(parts)
                measures: list[WindowMeasures] = []
                if self.scores is not None:
                    turn = self.student.updates
                    scored, more = self.scores.student_losses(self._windows(own, turn), turn, measures)
                    losses = chain(losses, (self.config.dmd_weight * loss for loss in scored))
                    count += more
                metrics |= self.student.optimizer.step(losses, count)
                if measures:
                    metrics |= WindowMeasures.metrics(measures)
                self.student.ema.update(self.student.network)
            metrics |= TermColumns.metrics(terms)
        self.step += 1
        return metrics

    def _minibatches(self, groups: Sequence[Group]) -> tuple[Advantages, list[Minibatch]]:
        """Compute the advantages of all ranks' groups, and deal this rank's groups to the steps of a pass.

        A spread may be that of the whole batch; each step has the same groups on any number of ranks.
        """
        scores, weights = {}, self.rewards(self.step)
        for name in weights:
            own = torch.tensor([group.scores[name] for group in groups], dtype=torch.float64)
            scores[name] = collectives.all_gather_cat(own.to(self.policy.device)).cpu()
        c = self.config
        advantages = combine(scores, weights, c.gamma, c.std_scope, c.std_floor, c.advantage_clip)
        mine = collectives.own_places(len(groups) * collectives.data_size())
        values, valid = (x[mine.start : mine.stop] for x in (advantages.values, advantages.valid))
        cuts = [slice(first, None, self.config.minibatches) for first in range(self.config.minibatches)]
        dealt = [(groups[cut], self.policy.snapshot(groups[cut], values[cut], valid[cut])) for cut in cuts]
        return advantages, dealt

    def _windows(self, groups: Sequence[Group], turn: int) -> list[Window]:
        """Cut the windows of these groups that critic and extended DMD loss see in this turn."""
        block = self.policy.shape.block_frames
        return windows_for_scores(groups, self.config.dmd_members, self.window_frames, block, turn)

    def _replay_metrics(self, minibatches: Sequence[Minibatch]) -> dict[str, float]:
        """Compare the learner's replay with the actors' record.

        Raises BurnInTooShort where the weights are still those that the actors had and the replay differs: in the
        first round, and later for groups that nothing was learned between.
        """
        replay = collectives.all_gather_columns([part.replay for _, parts in minibatches for part in parts])
        errors = replay.error[~replay.error.isnan()]
        worst = float(errors.max()) if len(errors) else math.nan
        if worst > self.config.clip / 2:
            wider = float(f"{3.5 * worst:.0e}")  # one digit, and however it was rounded more than twice the worst
            again = f"write grpo.clip={wider} and give the command again, or " if wider < 1 else ""
            raise BurnInTooShort(
                f"the learner's replay of the actors' transitions is off by up to {worst:.1e} in the ratio, more than "
                f"half of grpo.clip = {self.config.clip}. Fix: {again}raise group.burn_in_frames in a new run_dir, "
                "with this run's student as grpo.init"
            )
        metrics = {
            "policy/effective_samples": effective_sample_size(replay.weight),
            "policy/outliers": float(replay.masked.mean()),
        }
        if len(errors):
            metrics |= {"policy/replay_error": float(errors.mean()), "policy/replay_error_max": worst}
        return metrics

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
        """Return everything a resumed run needs; the reference comes from the run's start."""
        tensors, optimizer = self.student.state(), self.student.optimizer
        plain = {"rounds": self.step, "student": optimizer.updates, "rate": optimizer.lr_scale}
        if self.critic is not None:
            tensors |= self.critic.state()
            plain["critic"] = self.critic.updates
        return tensors, plain | {"watched": dict(self.sentinels.first), "last_good": self.sentinels.last_good}

    def load_state(self, groups: Mapping[str, ShardFiles], state: dict[str, object]) -> None:
        """Read the result of `state`, on any number of ranks. Raises ValueError."""
        self.student.load_state(groups, state["student"])
        if self.critic is not None:
            self.critic.load_state(groups, state["critic"])
        self.step, self.student.optimizer.lr_scale = state["rounds"], state["rate"]
        self.sentinels.first, self.sentinels.last_good = dict(state["watched"]), state["last_good"]
