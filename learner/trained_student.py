"""The student while it is trained: what actors get of it, and what is kept of it in the end."""

from torch import Tensor

from learner.ema import Ema
from learner.flat_copy import FlatCopy
from learner.lora import merge_lora
from learner.parallel.sharding import gather_full_state, load_full_state
from learner.stage_config import LearnerConfig
from models.wan.network import Wan


class TrainedStudent:
    """A network, its averages, and one piece of memory that it is published from."""

    def __init__(self, network: Wan, ema_decay: float, learner: LearnerConfig):
        self.network, self.learner = network, learner
        self.ema = Ema(network, ema_decay)
        self.published = FlatCopy(network.state_dict())

    def weights(self) -> dict[str, Tensor]:
        """What actors roll out, on rank 0: the raw student, never the EMA; an empty dict elsewhere (a collective).

        The next call overwrites the tensors: who keeps them must copy.
        """
        return merge_lora(self.published.of(self.network.state_dict()), self.learner.lora_scale)

    def averaged(self) -> dict[str, Tensor]:
        """What is evaluated and shipped, on rank 0; an empty dict elsewhere (a collective).

        With LoRA it is the adapters that are averaged, and the averages that are merged.
        """
        return merge_lora(gather_full_state(self.network.state_dict() | self.ema.averages), self.learner.lora_scale)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of a checkpoint, by group, on rank 0."""
        return {"student": gather_full_state(self.network.state_dict()), "ema": gather_full_state(self.ema.averages)}

    def load_state(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Put back what `state` gave, whole on every rank. Raises ValueError."""
        load_full_state(self.network.state_dict(), tensors["student"], "student")
        load_full_state(self.ema.averages, tensors["ema"], "ema")
