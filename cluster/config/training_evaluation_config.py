"""Declare the keys of evaluation during training."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key


@dataclass(kw_only=True)
class TrainingEvaluationConfig(KeyGroup, group="evaluation"):
    """Describes the evaluations during stages dmd and grpo: the same prompts and noise each time, on the pool."""

    every: int = key(0, "student updates between two evaluations; 0: no evaluation", ge=0)
    prompts: int = key(4, "videos of an evaluation, of the first prompts (stage grpo: not trained on)", ge=1, le=4096)
    frames: int = key(48, "length of an evaluation video, in latent frames", ge=1, le=100_000)
    metric: str = key(
        "luma.worst", "metric that chooses the best student, as luma.worst; in the tiny world also validity"
    )
    patience: int = key(
        0, "evaluations without a better evaluation.metric after which the stage ends early; 0: never", ge=0
    )
    videos: int = key(2, "evaluation videos that are kept and logged", ge=0, le=4096)
    timeout_s: float = key(
        1800.0, "longest evaluation, in seconds; then it counts as failed and its process is replaced", gt=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and not self.every:
            raise ConfigError(
                "evaluation.patience", self.patience, "evaluation.every=0 evaluates nothing",
                "write evaluation.every=100 or another interval",
            )  # fmt: skip
