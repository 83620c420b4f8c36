"""Print the help of a command: its usage and its keys, without torch, Ray or Hydra.

Help comes at once because no module of keys (models.keys, *_config, cluster.config) imports these at its top.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from models.errors import ConfigError, written
from settings.key_table import keys_of, nearest

COMMON = frozenset({
    "student.model", "student.horizon_frames", "student.attention_frames", "prompt.negative", "prompt.url",
    "rollout.frames", "rollout.batch", "rollout.windows", "rollout.dtype", "window.law", "window.frames",
    "window.burn_in_frames", "pretrain.steps", "ode.steps", "ode.pairs", "ode.batch_size", "ode.optimizer.lr",
    "dmd.steps", "dmd.batch_size", "dmd.critic_updates", "dmd.optimizer.lr", "dmd.critic_lr", "dmd.guidance",
    "dmd.ema_decay", "grpo.steps", "grpo.groups", "grpo.init", "grpo.loss", "grpo.optimizer.lr", "grpo.clip", "grpo.kl",
    "grpo.dmd_weight", "group.members", "group.frames", "group.forks", "reward.terms", "sentinel.metrics",
    "learner.micro_batch",
    "learner.checkpoint_activations", "learner.dtype", "learner.lora_rank", "checkpoint.every", "checkpoint.keep",
    "buffer.windows", "buffer.policy", "buffer.max_age", "cluster.address", "cluster.rollout_actors",
    "cluster.learner_ranks", "cluster.gpus", "autoscale.enabled", "wandb.mode", "evaluation.every",
    "scan.over", "scan.seeds", "scan.keep", "plan.learner_gpus", "plan.rollout_gpus", "plan.costs", "plan.updates",
    "plan.gpu_hour_price", "plan.budget_gpu_days", "plan.plot",
})  # fmt: skip
"""Keys in groups that people change most; with the keys in no group they make the default page."""


def asked_help(arguments: Sequence[str]) -> str | None:
    """Return the topic behind --help, empty for the default page, or None where no help is requested."""
    for i, argument in enumerate(arguments):
        if argument in ("--help", "-h"):
            following = arguments[i + 1 : i + 2]
            return following[0] if following and "=" not in following[0] else ""
    return None


def help_page(
    usage: str, schema: Any, groups: Mapping[str, Sequence[str]], topic: str = "", fixed: Collection[str] = ()
) -> str:
    """Write the help of a command: its common keys, all, or those of one group. Raises ConfigError.

    `fixed` are keys, and groups of keys or of choices, that the command sets itself: they are not shown.
    """
    keys = {name: key for name, key in keys_of(schema).items() if not {name, name.partition(".")[0] + "."} & {*fixed}}
    groups = {group: names for group, names in groups.items() if group not in fixed}
    sizes = Counter(name.partition(".")[0] for name in keys if "." in name)
    lines = [f"{group}={'|'.join(names)}" for group, names in groups.items()]
    topic = "wandb" if topic in ("log", "log.to") else topic
    if topic in ("", "all"):
        few = topic == "" and len(keys) > 40
        chosen = [name for name in keys if not few or "." not in name or name in COMMON]
        head = [usage.strip(), "", *(["Choices:", *(f"  {line}" for line in lines), ""] if lines else [])]
        hidden = "; --help GROUP and --help all list the others" if len(chosen) < len(keys) else ""
        if keys:
            head.append(
                f"Keys, with their defaults before a preset changes them ({len(chosen)} of {len(keys)}{hidden}):"
            )
        tail = ["Groups: " + ", ".join(f"{group} ({size})" for group, size in sizes.items())] if hidden else []
    else:
        chosen = [name for name in keys if name == topic or name.startswith(f"{topic}.")]
        if not chosen:
            other = nearest(topic, [*sizes, *keys]) or "all"
            raise ConfigError("--help", topic, "no such group of keys", f"write --help {other}")
        head, tail = [line for line in lines if line.startswith(f"{topic}=")], []
    width = max(map(len, chosen), default=0)
    for key in map(keys.__getitem__, chosen):
        default = "none" if key.default is None else written(key.default)
        head.append(f"  {key.name:<{width}}  {key.doc} [{default}]")
    return "\n".join([*head, *tail])
