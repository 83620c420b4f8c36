"""Stage `dmd`: the teacher corrects windows of the student's own long rollouts (extended DMD)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.score_distillation import ScoreDistillation, WindowMeasures
from learner.trained_network import TrainedNetwork
from models.records import Window


@dataclass(eq=False)
class DmdLearner:
    """Trains student and critic in turn against a frozen teacher (Self-Forcing++, Alg. 1).

    Every rank calls every method, each update with its own share of the windows.
    """

    student: TrainedNetwork
    critic: TrainedNetwork
    scores: ScoreDistillation
    ema_start: int
    """Update of the student from which it is averaged; until then the average is the student itself."""

    @property
    def step(self) -> int:
        """Count the student's updates."""
        return self.student.updates

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """Update the critic by flow matching on the current student's x0 of these windows."""
        return self.critic.optimizer.step(*self.scores.critic_losses(windows, self.critic.updates))

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """Update the student once by extended DMD (Self-Forcing++, Eq. 2): teacher minus critic, on noised windows."""
        measures: list[WindowMeasures] = []
        metrics = self.student.optimizer.step(*self.scores.student_losses(windows, self.step, measures))
        if self.step > self.ema_start:
            self.student.ema.update(self.student.network)
        else:
            self.student.ema.restart(self.student.network)
        return metrics | WindowMeasures.metrics(measures)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Return everything a resumed run needs, tensors on rank 0 only; draws are functions of the update counts."""
        counts = {"student": self.student.updates, "critic": self.critic.updates}
        return self.student.state() | self.critic.state(), counts

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Restore `state`; full tensors on every rank, however many there were. Raises ValueError."""
        self.student.load_state(tensors, state["student"])
        self.critic.load_state(tensors, state["critic"])
