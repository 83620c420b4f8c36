"""Build each stage's learner from its configuration: load networks, shard them, make their optimizers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, distributed

from learner.grpo import PolicyLearner
from learner.lora import ADAPTER_ENDINGS, adapter_start, add_adapters, plain_name
from learner.losses.dmd import score_sigmas
from learner.ode import OdeInitializer
from learner.optimizer import Optimizer, adamw, muon
from learner.parallel.sharding import copy_into_shards, shard
from learner.policy_batches import PolicyBatches
from learner.policy_config import GrpoConfig
from learner.pretraining import Pretrainer
from learner.score_distillation import DmdLearner, ScoreDistillation
from learner.sentinel_watch import SentinelWatch
from learner.stage_config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig, Source
from learner.trained_network import TrainedNetwork
from models.checkpoints.weight_files import check_weights, stored_tensors
from models.errors import ConfigError
from models.network_config import StudentConfig, WanConfig
from models.wan.network import Wan
from rewards.sentinels import SentinelConfig


@dataclass(frozen=True, kw_only=True)
class LearnerParts:
    """Holds the parts for building any stage's learner."""

    student: StudentConfig
    teacher_wan: WanConfig
    learner: LearnerConfig
    encode_text: Callable[[Sequence[str]], Tensor]
    """Prompts to [B S text_dim]."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Weights of "student", "critic" and "teacher"."""
    negative_prompt: str = ""
    """Text that the teacher's guidance leads away from."""
    seed: int
    device: torch.device
    published_dtype: torch.dtype = torch.float32
    """Dtype of the weights that actors load."""


def pretrainer(parts: LearnerParts, config: PretrainConfig) -> Pretrainer:
    """Build stage `teacher`: a teacher with random weights drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(parts.seed)
        network = Wan(parts.teacher_wan)
    network.checkpoint_activations = parts.learner.checkpoint_activations
    network.keep_attention = parts.learner.keep_attention
    if parts.learner.compile:
        network.compile_blocks()
    network.to(parts.device)
    shard(network, parts.device, _compute_dtype(parts.learner))
    optimizer = Optimizer(
        "pretrain", network, muon(network, config.optimizer.lr, config.optimizer.adamw_lr),
        lr_key="pretrain.optimizer.lr", grad_clip=1.0, cosine_steps=config.steps,
    )  # fmt: skip
    teacher = TrainedNetwork("teacher", network, optimizer, ema_decay=config.ema_decay)
    return Pretrainer(teacher, parts.learner.micro_batch, parts.seed, config, parts.student.horizon_frames)


def ode_initializer(parts: LearnerParts, config: OdeConfig, network: Wan | None = None) -> OdeInitializer:
    """Build stage `ode`; without `network` the student is loaded from its source."""
    network = network or _load(parts, "student", parts.student.wan)
    optimizer = Optimizer(
        "ode", network, muon(network, config.optimizer.lr, config.optimizer.adamw_lr),
        lr_key="ode.optimizer.lr", grad_clip=1.0, cosine_steps=config.steps,
    )  # fmt: skip
    student = TrainedNetwork("student", network, optimizer)
    return OdeInitializer(
        student, parts.learner.micro_batch, parts.seed, parts.encode_text, parts.student, config.batch_size,
        config.context_gradient,
    )  # fmt: skip


def dmd_learner(parts: LearnerParts, config: DmdConfig, networks: Sequence[Wan] = ()) -> DmdLearner:
    """Build stage `dmd`; without `networks` student, critic and teacher are loaded from their sources.

    With learner.lora_rank student and critic train adapters.
    """
    network, critic, teacher = networks or (
        _load(parts, "student", parts.student.wan, lora=True),
        _load(parts, "critic", parts.student.wan, lora=True),
        _load(parts, "teacher", parts.teacher_wan, frozen=True),
    )
    own = config.optimizer
    weights = adamw(network, own.lr, (own.beta1, own.beta2), own.weight_decay)
    optimizer = Optimizer("student", network, weights, lr_key="dmd.optimizer.lr", grad_clip=own.grad_clip)
    student = _student(parts, network, optimizer, config.ema_decay)
    scores, trained_critic = _score_networks(parts, config, network, critic, teacher)
    return DmdLearner(student, trained_critic, scores, config.ema_start)


def policy_learner(
    parts: LearnerParts,
    config: GrpoConfig,
    dmd: DmdConfig,
    sentinel: SentinelConfig,
    *,
    rewards: Callable[[int], Mapping[str, float]],
    window_frames: int,
    coarse: float = 1.0,
    networks: Mapping[str, Wan] | None = None,
) -> PolicyLearner:
    """Build stage `grpo`: `rewards` gives weights by round, `coarse` the share of frequencies that differ.

    Without `networks` the student is loaded from its source, and so are the networks that its losses need: critic and
    teacher for grpo.dmd_weight above 0, a frozen student ("reference") for grpo.kl above 0.
    """
    if networks is None:
        wan = parts.student.wan
        networks = {"student": _load(parts, "student", wan, lora=True)}
        if config.dmd_weight:
            networks["critic"] = _load(parts, "critic", wan, lora=True)
            networks["teacher"] = _load(parts, "teacher", parts.teacher_wan, frozen=True)
        if config.kl:
            networks["reference"] = _load(parts, "student", wan, frozen=True).eval()
    network, own = networks["student"], config.optimizer
    optimizer = Optimizer(
        "student", network, adamw(network, own.lr, (own.beta1, own.beta2), own.weight_decay),
        lr_key="grpo.optimizer.lr", grad_clip=own.grad_clip,
        cosine_steps=config.updates if config.schedule == "cosine" else None,
    )  # fmt: skip
    scores = critic = None
    if config.dmd_weight:
        losses = replace(dmd, noising=config.dmd_noising)
        scores, critic = _score_networks(parts, losses, network, networks["critic"], networks["teacher"])
    policy = PolicyBatches(
        network, networks.get("reference"), parts.encode_text, parts.student, config, parts.learner.micro_batch, coarse
    )
    return PolicyLearner(
        _student(parts, network, optimizer, config.ema_decay), policy, config, SentinelWatch(sentinel, optimizer),
        rewards=rewards, window_frames=window_frames, scores=scores, critic=critic,
    )  # fmt: skip


def _student(parts: LearnerParts, network: Wan, optimizer: Optimizer, ema_decay: float) -> TrainedNetwork:
    return TrainedNetwork(
        "student", network, optimizer, optimizer_name="student_optimizer", ema_decay=ema_decay,
        published=parts.published_dtype, lora_scale=parts.learner.lora_scale,
    )  # fmt: skip


def _score_networks(
    parts: LearnerParts, config: DmdConfig, student: Wan, critic: Wan, teacher: Wan
) -> tuple[ScoreDistillation, TrainedNetwork]:
    """Return the losses of extended DMD, and the critic that they train."""
    scores = ScoreDistillation(
        student, critic, teacher, parts.encode_text, parts.student, replay=config.replay,
        context_gradient=config.context_gradient, noising=config.noising,
        score_levels=partial(score_sigmas, shift=config.score_shift, low=config.score_min, high=config.score_max),
        guidance=config.guidance, negative_prompt=parts.negative_prompt, micro_batch=parts.learner.micro_batch,
        seed=parts.seed,
    )  # fmt: skip
    own = config.optimizer
    weights = adamw(critic, config.critic_lr, (own.beta1, own.beta2), own.weight_decay)
    optimizer = Optimizer("critic", critic, weights, lr_key="dmd.critic_lr", grad_clip=own.grad_clip)
    scale = parts.learner.lora_scale
    return scores, TrainedNetwork("critic", critic, optimizer, optimizer_name="critic_optimizer", lora_scale=scale)


def _load(parts: LearnerParts, role: str, wan: WanConfig, *, frozen: bool = False, lora: bool = False) -> Wan:
    """Load the network of a role tensor by tensor, so that a rank holds its shards and little more."""
    learner, source, device = parts.learner, parts.sources[role], parts.device
    offload = frozen and learner.teacher_offload
    if offload and not (distributed.is_initialized() and device.type == "cuda"):
        problem = "needs learner ranks on GPUs"
        raise ConfigError("learner.teacher_offload", True, problem, "set learner.teacher_offload=false")
    with torch.device("meta"):
        network = Wan(wan)
    check_weights(source.path, source.key, network, source.part)
    if frozen:
        network.to(getattr(torch, learner.teacher_dtype)).requires_grad_(False)
    elif lora and learner.lora_rank is not None:
        add_adapters(network, learner.lora_rank, learner.lora_alpha)
    network.checkpoint_activations = learner.checkpoint_activations and not frozen
    network.keep_attention = learner.keep_attention
    if learner.compile:
        network.compile_blocks()
    shard(network, device, None if frozen else _compute_dtype(learner), offload)
    network.to_empty(device="cpu" if offload else device)
    targets = network.state_dict()
    plain = {plain_name(name): target for name, target in targets.items()}
    for name, values in stored_tensors(source.path, source.part):
        copy_into_shards(plain[name], values)
    for name, target in targets.items():
        if name.endswith(ADAPTER_ENDINGS):
            copy_into_shards(target, adapter_start(name, target.shape, parts.seed))
    return network


def _compute_dtype(learner: LearnerConfig) -> torch.dtype | None:
    """Return the dtype in which student and critic compute; None is that of their weights, float32."""
    if learner.dtype == "float32":
        return None
    if not distributed.is_initialized():
        problem = "needs learner ranks"
        raise ConfigError("learner.dtype", learner.dtype, problem, "set cluster=ray or learner.dtype=float32")
    return getattr(torch, learner.dtype)
