"""Gather the texts of a stage, and the parts for building its learner."""

from collections.abc import Sequence

import torch

from actors.prompts import TrainingPrompts
from cluster.config.run_config import Config
from cluster.runs.run_world import RunWorld
from cluster.runs.stage_spec import StageSpec, stage_spec
from learner.build import LearnerParts
from learner.parallel import collectives
from models.worlds.tiny_world import TinyText
from models.worlds.world import Text


def learner_parts(config: Config, stage: str) -> LearnerParts:
    """Collect the parts of `stage`'s learner, with all texts that it reads encoded (a collective)."""
    student = {"dmd": config.init_source, "grpo": config.grpo_init_source}.get(stage, config.base_source)
    critic = config.grpo_critic_source if stage == "grpo" else config.base_source
    text: Text = TinyText()
    if stage != "teacher":
        spec = stage_spec(stage, config)
        text = prepared_text(spec.inputs.world, stage_texts(spec), config.device)
    return LearnerParts(
        student=config.student, teacher_wan=config.teacher_wan, learner=config.learner,
        sources={"student": student, "critic": critic, "teacher": config.teacher_source},
        encode_text=text,
        negative_prompt=config.negative_prompt, seed=config.seed, device=config.device,
        published_dtype=getattr(torch, config.rollout.dtype),
    )  # fmt: skip


def prepared_text(world: RunWorld, texts: Sequence[str], device: torch.device) -> Text:
    """Open the learner's text encoder with `texts` encoded: actors that see the cache never load one.

    Each rank encodes its share, before networks take memory (a collective).
    """
    text = world.text(device)
    text.prepare(texts[collectives.rank() :: collectives.size()])
    collectives.all_reduce_max(0)
    return text


def stage_texts(spec: StageSpec) -> list[str]:
    """List every text that a stage reads, once: prompts of rollouts, sentinels and evaluations, the negative prompt.

    Of a file, the prompts that the stage reaches; where the buffer drops windows by age it may reach a few more.
    """
    watched: Sequence[str] = ()
    inputs, rollout = spec.inputs, spec.actor.rollout
    if spec.name == "ode":
        rollouts, given = spec.actor.ode.pairs, spec.actor.ode.pairs_dir is not None
        prompts = inputs.trajectories.prompts() if given else inputs.prompts.training()
    else:
        prompts, each = inputs.prompts.training(), rollout.windows
        if spec.name == "grpo":
            prompts, watched = inputs.prompts.groups(spec.sentinel.prompts)
            each = spec.group.forks
        # The most that are dispatched: windows that updates take, a full buffer, and a batch that is cut.
        windows = spec.steps * spec.samples_per_update + spec.buffer.windows
        rollouts = -(-windows // each) + rollout.batch
    if isinstance(prompts, TrainingPrompts):
        prompts = [prompts.prompt(i) for i in range(min(len(prompts), rollouts))]
    evaluated = () if spec.evaluation is None else spec.evaluation.prompts
    return list(dict.fromkeys([*prompts, *watched, *evaluated, inputs.world.negative_prompt]))
