"""Stage `dmd`: the teacher corrects windows of the student's own long rollouts (extended DMD)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner import ranks
from learner.config import DmdConfig, LearnerConfig
from learner.ema import Ema
from learner.flat_copy import FlatCopy
from learner.lora import merged
from learner.optimizer import Optimizer, adamw
from learner.score_distillation import ScoreDistillation, by_age
from learner.sharding import gather, load
from models.config import StudentConfig
from models.noise import Draw
from models.rollout import Window
from models.wan import Wan


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
    ):
        self.student, self.critic, self.config, self.learner = student, critic, config, learner
        self.scores = ScoreDistillation(student, critic, teacher, encode_text, shape, config, learner, seed)
        self.ema = Ema(student, config.ema_decay)
        self.published = FlatCopy(student.state_dict())
        betas, clip = (config.beta1, config.beta2), config.grad_clip
        of_student = adamw(student, config.student_lr, betas, config.weight_decay)
        of_critic = adamw(critic, config.critic_lr, betas, config.weight_decay)
        self.student_optimizer = Optimizer("student", student, of_student, lr_key="dmd.student_lr", grad_clip=clip)
        self.critic_optimizer = Optimizer("critic", critic, of_critic, lr_key="dmd.critic_lr", grad_clip=clip)

    @property
    def step(self) -> int:
        """Student updates done."""
        return self.student_optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """What actors roll out, on rank 0: the raw student, never the EMA; an empty dict elsewhere (a collective).

        The next call overwrites the tensors: who keeps them must copy.
        """
        return merged(self.published.of(self.student.state_dict()), self.learner.lora_scale)

    def averaged(self) -> dict[str, Tensor]:
        """What is evaluated and shipped, on rank 0; an empty dict elsewhere (a collective).

        With LoRA it is the adapters that are averaged, and the averages that are merged.
        """
        return merged(gather(self.student.state_dict() | self.ema.averages), self.learner.lora_scale)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs, the tensors on rank 0 only; draws are functions of the update counts."""
        tensors = {
            "student": gather(self.student.state_dict()),
            "critic": gather(self.critic.state_dict()),
            "ema": gather(self.ema.averages),
            "student_optimizer": self.student_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
        }
        return tensors, {"student": self.student_optimizer.updates, "critic": self.critic_optimizer.updates}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave, whole on every rank, however many there were. Raises ValueError."""
        load(self.student.state_dict(), tensors["student"], "student")
        load(self.critic.state_dict(), tensors["critic"], "critic")
        load(self.ema.averages, tensors["ema"], "ema")
        self.student_optimizer.load_state(tensors.get("student_optimizer", {}), state["student"])
        self.critic_optimizer.load_state(tensors.get("critic_optimizer", {}), state["critic"])

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """The critic follows the student: flow matching on x0 that the current student makes of these windows."""
        parts, count = self.scores.parts(windows, Draw.CRITIC_UPDATE, self.critic_optimizer.updates)
        return self.critic_optimizer.step((self.scores.critic_loss(part) for part in parts), count)

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """One extended DMD update (Self-Forcing++, Eq. 2): teacher minus critic, on re-noised windows."""
        parts, count = self.scores.parts(windows, Draw.STUDENT_UPDATE, self.student_optimizer.updates)
        measured: list[Tensor] = []
        metrics = self.student_optimizer.step((self.scores.student_loss(part, measured) for part in parts), count)
        if self.step > self.config.ema_start:
            self.ema.update(self.student)
        else:
            self.ema.restart(self.student)
        return metrics | by_age(ranks.joined(torch.cat(measured)))
