"""The texts that a stage reads, and the parts that its learner is built from."""

from collections.abc import Sequence

from actors.prompts import TrainingPrompts
from cluster.config.run_config import Config
from cluster.runs.run_prompts import group_prompts, training_prompts
from cluster.runs.run_world import text_of
from cluster.runs.trajectories import given_prompts
from learner.build import LearnerParts
from learner.parallel import collectives
from models.worlds.tiny_world import TinyText
from models.worlds.world import Text


def learner_parts(config: Config, stage: str) -> LearnerParts:
    """Collect the parts of `stage`'s learner, with all texts that it reads encoded (a collective)."""
    student = {"dmd": config.init_source, "grpo": config.grpo_init_source}.get(stage, config.base_source)
    critic = config.grpo_critic_source if stage == "grpo" else config.base_source
    return LearnerParts(
        student=config.student, teacher_wan=config.teacher_wan, learner=config.learner,
        sources={"student": student, "critic": critic, "teacher": config.teacher_source},
        encode_text=TinyText() if stage == "teacher" else prepared_text(config, stage),
        negative_prompt=config.negative_prompt, seed=config.seed, device=config.device,
    )  # fmt: skip


def prepared_text(config: Config, stage: str) -> Text:
    """The learner's text encoder, with all that `stage` reads at hand: actors that see the cache never load one.

    Each rank encodes its share, before networks take memory (a collective).
    """
    text = text_of(config, config.device)
    text.prepare(stage_texts(stage, config)[collectives.rank() :: collectives.size()])
    collectives.all_reduce_max(0)
    return text


def stage_texts(stage: str, config: Config) -> list[str]:
    """Every text that a stage reads, once: the prompts of its rollouts, and what guidance leads away from.

    Of a file, the prompts that the stage comes to; where the buffer drops windows by age it may come to a few more.
    """
    watched: Sequence[str] = ()
    if stage == "ode" and config.ode.pairs_dir is not None:
        prompts: Sequence[str] = given_prompts(config)
    elif stage == "grpo":
        prompts, watched = group_prompts(config)
    else:
        prompts = training_prompts(config)
    if isinstance(prompts, TrainingPrompts):
        prompts = [prompts.prompt(i) for i in range(min(len(prompts), _rollouts(stage, config)))]
    return list(dict.fromkeys([*prompts, *watched, config.negative_prompt]))


def _rollouts(stage: str, config: Config) -> int:
    """The most rollouts that a stage dispatches: what its updates take, a full buffer, and a batch that is cut."""
    if stage == "ode":
        return config.ode.pairs
    steps, each = config.dmd.steps, config.rollout.windows
    if stage == "grpo":
        steps, each = config.grpo.steps, config.group.forks
    windows = steps * config.samples_per_update(stage) + config.buffer.windows
    return -(-windows // each) + config.rollout.batch
