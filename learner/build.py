"""Networks on the learner: built, filled, cut over the ranks, and put together for a stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learner.distillation import Distiller
from learner.grpo import PolicyLearner
from learner.lora import adapter_start, add_adapters, is_adapter, plain_name
from learner.ode import OdeInitializer
from learner.parallel.sharding import copy_into_shards, in_group, shard
from learner.policy_config import GrpoConfig
from learner.pretraining import Pretrainer
from learner.score_distillation import ScoreDistillation
from learner.stage_config import DmdConfig, LearnerConfig, OdeConfig, PretrainConfig, Source
from models.checkpoints.weight_files import check_weights, stored_tensors
from models.network_config import StudentConfig, WanConfig
from models.wan.network import Wan
from rewards.sentinels import SentinelConfig

Encoder = Callable[[Sequence[str]], Tensor]


def make_pretrainer(
    wan: WanConfig, config: PretrainConfig, learner: LearnerConfig, horizon_frames: int, seed: int, device: torch.device
) -> Pretrainer:
    """A teacher with random weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Wan(wan)
    _equip(network, learner)
    network.to(device)
    shard(network, device, _compute(learner))
    return Pretrainer(network, config, learner, horizon_frames, seed)


def make_ode_initializer(
    shape: StudentConfig,
    config: OdeConfig,
    learner: LearnerConfig,
    base: Source,
    encode_text: Encoder,
    seed: int,
    device: torch.device,
) -> OdeInitializer:
    """A student that starts from the weights of `base`."""
    student = _trained(shape.wan, base, learner, device)
    return OdeInitializer(student, encode_text, shape, config, learner, seed)


def make_distiller(
    shape: StudentConfig,
    config: DmdConfig,
    learner: LearnerConfig,
    *,
    init: Source,
    base: Source,
    teacher: Source,
    teacher_wan: WanConfig,
    encode_text: Encoder,
    negative_prompt: str,
    seed: int,
    device: torch.device,
) -> Distiller:
    """A student from `init`, a critic from `base`, both with adapters if asked for, and a teacher of any size."""
    student = _trained(shape.wan, init, learner, device, learner.lora_rank, seed)
    critic = _trained(shape.wan, base, learner, device, learner.lora_rank, seed)
    real = _frozen(teacher_wan, teacher, learner, device)
    return Distiller(student, critic, real, encode_text, shape, config, learner, seed, negative_prompt)


def make_policy_learner(
    shape: StudentConfig,
    grpo: GrpoConfig,
    dmd: DmdConfig,
    learner: LearnerConfig,
    *,
    rewards: Mapping[str, float],
    sentinel: SentinelConfig,
    window_frames: int,
    coarse: float,
    init: Source,
    critic: Source,
    teacher: Source,
    teacher_wan: WanConfig,
    encode_text: Encoder,
    negative_prompt: str,
    seed: int,
    device: torch.device,
) -> PolicyLearner:
    """A student from `init`, and what its losses ask for: critic and teacher, a frozen copy of `init`, or neither."""
    student = _trained(shape.wan, init, learner, device, learner.lora_rank, seed)
    scores = reference = None
    if grpo.dmd_weight:
        fake = _trained(shape.wan, critic, learner, device, learner.lora_rank, seed)
        real = _frozen(teacher_wan, teacher, learner, device)
        losses = replace(dmd, noising=grpo.dmd_noising)
        scores = ScoreDistillation(student, fake, real, encode_text, shape, losses, learner, seed, negative_prompt)
    if grpo.kl:
        reference = _frozen(shape.wan, init, learner, device).eval()
    return PolicyLearner(
        student, scores, reference, encode_text, shape, grpo, learner,
        rewards=rewards, sentinel=sentinel, window_frames=window_frames, coarse=coarse,
    )  # fmt: skip


def _trained(
    wan: WanConfig,
    source: Source,
    learner: LearnerConfig,
    device: torch.device,
    lora_rank: int | None = None,
    seed: int = 0,
) -> Wan:
    network = _outline(wan, source)
    if lora_rank is not None:
        add_adapters(network, lora_rank, learner.lora_alpha)
    _equip(network, learner)
    shard(network, device, _compute(learner))
    return _filled(network, source, device, seed)


def _frozen(wan: WanConfig, source: Source, learner: LearnerConfig, device: torch.device) -> Wan:
    if learner.teacher_offload and not (in_group() and device.type == "cuda"):
        raise ValueError("learner.teacher_offload=true needs learner ranks on GPUs; set learner.teacher_offload=false")
    network = _outline(wan, source).to(getattr(torch, learner.teacher_dtype)).requires_grad_(False)
    if learner.compile:
        network.compile_blocks()
    shard(network, device, offload=learner.teacher_offload)
    return _filled(network, source, torch.device("cpu") if learner.teacher_offload else device)


def _outline(wan: WanConfig, source: Source) -> Wan:
    """A network without memory, which the file fits. Raises ValueError."""
    with torch.device("meta"):
        network = Wan(wan)
    check_weights(source.path, source.key, network, source.part)
    return network


def _filled(network: Wan, source: Source, device: torch.device, seed: int = 0) -> Wan:
    """Memory, and the file's weights in it: tensor by tensor, so that a rank holds its shards and little more."""
    network.to_empty(device=device)
    targets = network.state_dict()
    plain = {plain_name(name): target for name, target in targets.items()}
    for name, values in stored_tensors(source.path, source.part):
        copy_into_shards(plain[name], values)
    for name, target in targets.items():
        if is_adapter(name):
            copy_into_shards(target, adapter_start(name, target.shape, seed))
    return network


def _equip(network: Wan, learner: LearnerConfig) -> None:
    network.checkpoint_activations = learner.checkpoint_activations
    if learner.compile:
        network.compile_blocks()


def _compute(learner: LearnerConfig) -> torch.dtype | None:
    """What student and critic compute in; None is the dtype of their weights, float32."""
    if learner.dtype == "float32":
        return None
    if not in_group():
        raise ValueError(
            f"learner.dtype={learner.dtype} needs learner ranks; set cluster=ray, or learner.dtype=float32"
        )
    return getattr(torch, learner.dtype)
