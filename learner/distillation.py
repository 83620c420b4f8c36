"""Stage `dmd`: the teacher corrects windows of the student's own long rollouts (extended DMD)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner.optimizer import Optimizer, adamw
from learner.parallel import collectives
from learner.score_distillation import ScoreDistillation, metrics_by_age
from learner.stage_config import DmdConfig, LearnerConfig
from learner.trained_student import TrainedStudent
from models.network_config import StudentConfig
from models.noise import Draw
from models.records import Window
from models.wan.network import Wan


class Distiller:
    """Student and critic, and the two updates between them, with a frozen teacher.

    Every rank calls every method, each `update_` with its own share of the windows.
    """

    def __init__(
        self,
        student: Wan,
        critic: Wan,
        teacher: Wan,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: DmdConfig,
        learner: LearnerConfig,
        seed: int,
        negative_prompt: str = "",
    ):
        """The teacher's guidance leads away from `negative_prompt`."""
        self.student, self.critic, self.config = student, critic, config
        self.scores = ScoreDistillation(
            student, critic, teacher, encode_text, shape, config, learner, seed, negative_prompt
        )
        self.trained = TrainedStudent(student, config.ema_decay, learner)
        own = adamw(student, config.student_lr, (config.beta1, config.beta2), config.weight_decay)
        self.student_optimizer = Optimizer("student", student, own, lr_key="dmd.student_lr", grad_clip=config.grad_clip)

    @property
    def step(self) -> int:
        """Student updates done."""
        return self.student_optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """See `TrainedStudent.weights`."""
        return self.trained.weights()

    def averaged(self) -> dict[str, Tensor]:
        """See `TrainedStudent.averaged`."""
        return self.trained.averaged()

    def critic_weights(self) -> dict[str, Tensor]:
        """See `ScoreDistillation.critic_weights`."""
        return self.scores.critic_weights()

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs, the tensors on rank 0 only; draws are functions of the update counts."""
        tensors = self.trained.state() | self.scores.critic_state()
        tensors["student_optimizer"] = self.student_optimizer.state()
        return tensors, {"student": self.student_optimizer.updates, "critic": self.scores.critic_optimizer.updates}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave, whole on every rank, however many there were. Raises ValueError."""
        self.trained.load_state(tensors)
        self.student_optimizer.load_state(tensors.get("student_optimizer", {}), state["student"])
        self.scores.load_critic(tensors, state["critic"])

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """The critic follows the student: flow matching on x0 that the current student makes of these windows."""
        return self.scores.update_critic(windows)

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """One extended DMD update (Self-Forcing++, Eq. 2): teacher minus critic, on re-noised windows."""
        parts, count = self.scores.parts(windows, Draw.STUDENT_UPDATE, self.student_optimizer.updates)
        measured: list[Tensor] = []
        metrics = self.student_optimizer.step((self.scores.student_loss(part, measured) for part in parts), count)
        if self.step > self.config.ema_start:
            self.trained.ema.update(self.student)
        else:
            self.trained.ema.restart(self.student)
        return metrics | metrics_by_age(collectives.all_gather_cat(torch.cat(measured)))
