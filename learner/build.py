"""Each stage's learner, built from configuration: networks filled, sharded over the ranks, given their optimizers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from learner.distillation import DmdLearner
from learner.grpo import PolicyLearner
from learner.lora import adapter_start, add_adapters, is_adapter, plain_name
from learner.ode import OdeInitializer
from learner.optimizer import Optimizer, adamw, muon
from learner.parallel.sharding import copy_into_shards, in_group, shard
from learner.policy_batches import PolicyBatches
from learner.policy_config import GrpoConfig
from learner.pretraining import Pretrainer
from learner.score_distillation import ScoreDistillation
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
    """Holds what every stage's learner is built from."""

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


def pretrainer(parts: LearnerParts, config: PretrainConfig) -> Pretrainer:
    """Build stage `teacher`: a teacher with random weights drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(parts.seed)
        network = Wan(parts.teacher_wan)
    _prepare_training(network, parts.learner)
    network.to(parts.device)
    shard(network, parts.device, _compute_dtype(parts.learner))
    optimizer = Optimizer(
        "pretrain", network, muon(network, config.lr, config.adamw_lr),
        lr_key="pretrain.lr", grad_clip=1.0, cosine_steps=config.steps,
    )  # fmt: skip
    teacher = TrainedNetwork("teacher", network, optimizer, ema_decay=config.ema_decay)
    return Pretrainer(teacher, config, parts.student.horizon_frames, parts.learner.micro_batch, parts.seed)


def ode_initializer(parts: LearnerParts, config: OdeConfig, network: Wan | None = None) -> OdeInitializer:
    """Build stage `ode`; without `network` the student is loaded from its source."""
    network = network or _load_trained(parts, "student")
    optimizer = Optimizer(
        "ode", network, muon(network, config.lr, config.adamw_lr),
        lr_key="ode.lr", grad_clip=1.0, cosine_steps=config.steps,
    )  # fmt: skip
    student = TrainedNetwork("student", network, optimizer)
    return OdeInitializer(
        student, parts.encode_text, parts.student, config.batch_size, parts.learner.micro_batch, parts.seed
    )


def dmd_learner(parts: LearnerParts, config: DmdConfig, networks: Sequence[Wan] = ()) -> DmdLearner:
    """Build stage `dmd`; without `networks` student, critic and teacher are loaded from their sources.

    With learner.lora_rank student and critic train adapters.
    """
    network, critic, teacher = networks or (
        _load_trained(parts, "student", lora=True),
        _load_trained(parts, "critic", lora=True),
        _load_frozen(parts, "teacher", parts.teacher_wan),
    )
    own = adamw(network, config.student_lr, (config.beta1, config.beta2), config.weight_decay)
    optimizer = Optimizer("student", network, own, lr_key="dmd.student_lr", grad_clip=config.grad_clip)
    student = _student(parts, network, optimizer, config.ema_decay)
    scores = _scores(parts, config, network, critic, teacher)
    return DmdLearner(student, _critic(parts, config, critic), scores, config.ema_start)


def policy_learner(
    parts: LearnerParts,
    config: GrpoConfig,
    dmd: DmdConfig,
    sentinel: SentinelConfig,
    *,
    rewards: Mapping[str, float],
    window_frames: int,
    coarse: float = 1.0,
    networks: Mapping[str, Wan] | None = None,
) -> PolicyLearner:
    """Build stage `grpo`: `rewards` are names and weights, `coarse` the share of frequencies in which members differ.

    Without `networks` the student is loaded from its source, and so are the networks that its losses need: critic and
    teacher for grpo.dmd_weight above 0, a frozen student ("reference") for grpo.kl above 0.
    """
    if networks is None:
        networks = {"student": _load_trained(parts, "student", lora=True)}
        if config.dmd_weight:
            networks["critic"] = _load_trained(parts, "critic", lora=True)
            networks["teacher"] = _load_frozen(parts, "teacher", parts.teacher_wan)
        if config.kl:
            networks["reference"] = _load_frozen(parts, "student", parts.student.wan).eval()
    network = networks["student"]
    optimizer = Optimizer(
        "student", network, adamw(network, config.lr, (config.beta1, config.beta2), config.weight_decay),
        lr_key="grpo.lr", grad_clip=config.grad_clip,
        cosine_steps=config.updates if config.schedule == "cosine" else None,
    )  # fmt: skip
    scores = critic = None
    if config.dmd_weight:
        losses = replace(dmd, noising=config.dmd_noising)
        scores = _scores(parts, losses, network, networks["critic"], networks["teacher"])
        critic = _critic(parts, losses, networks["critic"])
    policy = PolicyBatches(
        network, networks.get("reference"), parts.encode_text, parts.student, config, parts.learner.micro_batch, coarse
    )
    return PolicyLearner(
        _student(parts, network, optimizer, config.ema_decay), policy, config, SentinelWatch(sentinel, optimizer),
        rewards=rewards, window_frames=window_frames, scores=scores, critic=critic,
    )  # fmt: skip


def _student(parts: LearnerParts, network: Wan, optimizer: Optimizer, ema_decay: float) -> TrainedNetwork:
    return TrainedNetwork(
        "student", network, optimizer, optimizer_name="student_optimizer", ema_decay=ema_decay, published=True,
        lora_scale=parts.learner.lora_scale,
    )  # fmt: skip


def _critic(parts: LearnerParts, config: DmdConfig, network: Wan) -> TrainedNetwork:
    own = adamw(network, config.critic_lr, (config.beta1, config.beta2), config.weight_decay)
    optimizer = Optimizer("critic", network, own, lr_key="dmd.critic_lr", grad_clip=config.grad_clip)
    scale = parts.learner.lora_scale
    return TrainedNetwork("critic", network, optimizer, optimizer_name="critic_optimizer", lora_scale=scale)


def _scores(parts: LearnerParts, config: DmdConfig, student: Wan, critic: Wan, teacher: Wan) -> ScoreDistillation:
    return ScoreDistillation(
        student, critic, teacher, parts.encode_text, parts.student, config,
        micro_batch=parts.learner.micro_batch, seed=parts.seed, negative_prompt=parts.negative_prompt,
    )  # fmt: skip


def _load_trained(parts: LearnerParts, name: str, lora: bool = False) -> Wan:
    learner, source = parts.learner, parts.sources[name]
    network = _outline(parts.student.wan, source)
    if lora and learner.lora_rank is not None:
        add_adapters(network, learner.lora_rank, learner.lora_alpha)
    _prepare_training(network, learner)
    shard(network, parts.device, _compute_dtype(learner))
    return _fill(network, source, parts.device, parts.seed)


def _load_frozen(parts: LearnerParts, name: str, wan: WanConfig) -> Wan:
    learner, source, device = parts.learner, parts.sources[name], parts.device
    if learner.teacher_offload and not (in_group() and device.type == "cuda"):
        problem = "needs learner ranks on GPUs"
        raise ConfigError("learner.teacher_offload", True, problem, "set learner.teacher_offload=false")
    network = _outline(wan, source).to(getattr(torch, learner.teacher_dtype)).requires_grad_(False)
    if learner.compile:
        network.compile_blocks()
    shard(network, device, offload=learner.teacher_offload)
    return _fill(network, source, torch.device("cpu") if learner.teacher_offload else device, parts.seed)


def _outline(wan: WanConfig, source: Source) -> Wan:
    """Make a network without memory that the file fits. Raises ValueError."""
    with torch.device("meta"):
        network = Wan(wan)
    check_weights(source.path, source.key, network, source.part)
    return network


def _fill(network: Wan, source: Source, device: torch.device, seed: int) -> Wan:
    """Allocate the network and load its file tensor by tensor, so that a rank holds its shards and little more."""
    network.to_empty(device=device)
    targets = network.state_dict()
    plain = {plain_name(name): target for name, target in targets.items()}
    for name, values in stored_tensors(source.path, source.part):
        copy_into_shards(plain[name], values)
    for name, target in targets.items():
        if is_adapter(name):
            copy_into_shards(target, adapter_start(name, target.shape, seed))
    return network


def _prepare_training(network: Wan, learner: LearnerConfig) -> None:
    network.checkpoint_activations = learner.checkpoint_activations
    if learner.compile:
        network.compile_blocks()


def _compute_dtype(learner: LearnerConfig) -> torch.dtype | None:
    """Return the dtype in which student and critic compute; None is that of their weights, float32."""
    if learner.dtype == "float32":
        return None
    if not in_group():
        problem = "needs learner ranks"
        raise ConfigError("learner.dtype", learner.dtype, problem, "set cluster=ray or learner.dtype=float32")
    return getattr(torch, learner.dtype)
