"""Estimate the memory of one learner rank, before anything is allocated."""

from typing import NamedTuple

from cluster.planning.flops import Line
from cluster.planning.run_shape import RunShape
from models.network_config import WanConfig
from models.network_sizes import BYTES, block_parameters, cache_bytes, kv_bytes, parameters

TRAINED_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8}
"""Bytes per trained parameter in float32, 16 with AdamW's two moments. Networks compute in a smaller copy."""

FORWARD_NUMBERS = 17
"""Numbers per token and unit of width that live at the peak of a block without gradient; measured on the null GPU."""

BACKWARD_NUMBERS = 12
"""The same of a block's backward pass, beside the activations that it reads."""

PUBLISHING = ("dmd", "grpo")
"""Stages whose learner publishes weights."""


def adapter_parameters(wan: WanConfig, rank: int) -> int:
    """Count those of LoRA adapters on all matrices of the blocks: two attentions of four, and the feed-forward."""
    return wan.num_layers * rank * (8 * 2 * wan.dim + 2 * (wan.dim + wan.ffn_dim))


def activation_bytes(
    wan: WanConfig, tokens: int, element: int, checkpointed: bool, kept_attention: bool = False
) -> int:
    """Count the bytes of activations that a pass with gradient over `tokens` keeps for its backward pass.

    Checkpointed: what `checkpointed_bytes` counts, and one block's own. Else every block's own, as `Block.forward`
    saves, with gates and norms in float32. Masks, text and tensors kept once per frame are left out.
    """
    inside = tokens * (wan.dim * (10 * element + 12 * 4) + 2 * wan.ffn_dim * element)
    if not checkpointed:
        return wan.num_layers * inside
    return checkpointed_bytes(wan, tokens, element, kept_attention) + inside


def checkpointed_bytes(wan: WanConfig, tokens: int, element: int, kept_attention: bool) -> int:
    """Count the bytes that checkpointed blocks keep: inputs, and if so attention with float32 sums by head."""
    attention = wan.dim * element + 4 * wan.num_attention_heads if kept_attention else 0
    return wan.num_layers * tokens * (wan.dim * element + attention)


def context_bytes(work: RunShape, stage: str, clean: int) -> float:
    """Count the activations of `clean` frames that are read with gradient, before a pass over the noisy ones."""
    if not {"ode": work.ode, "dmd": work.dmd}[stage].context_gradient:
        return 0
    wan, learner = work.student.wan, work.learner
    tokens = pass_tokens(work, stage) * clean // work.frames(stage)[0]
    # At the peak, the end of the noisy pass's backward, no checkpointed block's own are there yet.
    if learner.checkpoint_activations:
        return checkpointed_bytes(wan, tokens, BYTES[learner.dtype], learner.keep_attention)
    return activation_bytes(wan, tokens, BYTES[learner.dtype], False)


def rank_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes of one learner rank on its device, at its peak; fragmentation is not in it.

    Within a tenth of what torch's allocator holds on the null GPU (tests/device/test_rank_memory.py).
    """
    return [*kept_memory(work, stage), *pass_memory(work, stage)]


class Trained(NamedTuple):
    """Describes the network that a stage trains."""

    wan: WanConfig
    held: int
    """Parameters, adapters too."""
    trained: int
    """Parameters with a gradient."""


def trained_network(work: RunShape, stage: str) -> Trained:
    """Describe the network that a stage trains."""
    wan = work.teacher_wan if stage == "teacher" else work.student.wan
    if work.learner.lora_rank is None or stage not in PUBLISHING:
        return Trained(wan, parameters(wan), parameters(wan))
    trained = adapter_parameters(wan, work.learner.lora_rank)
    return Trained(wan, parameters(wan) + trained, trained)


def kept_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes that a learner rank holds from one update to the next."""
    learner, ranks, student = work.learner, work.cluster.learner_ranks, work.student
    wan, held, trained = trained_network(work, stage)
    part = {name: size / ranks for name, size in TRAINED_BYTES.items()}
    with_critic = with_scores(work, stage)
    networks = 2 if with_critic else 1
    whose = "student and critic" if with_critic else "teacher" if stage == "teacher" else "student"
    averages = part["weights"] * trained if stage != "ode" else 0.0
    moments, kind = networks * part["optimiser"] * trained, "AdamW's two moments, float32"
    if stage in ("teacher", "ode"):
        matrices = wan.num_layers * (8 * wan.dim**2 + 2 * wan.dim * wan.ffn_dim)  # of the blocks, which Muon trains
        moments -= TRAINED_BYTES["weights"] * matrices / ranks
        kind = "float32: Muon's one moment of the blocks' matrices, AdamW's two of the rest"
    frozen = 0
    if not learner.teacher_offload:  # the teacher, and in stage grpo the student that KL is taken to
        frozen += parameters(work.teacher_wan) if with_critic else 0
        frozen += parameters(student.wan) if stage == "grpo" and work.grpo.kl else 0
    lines = [
        Line("weights", networks * part["weights"] * held, "B", f"float32, of {whose}; cut over the ranks"),
        Line("gradients", networks * part["gradients"] * trained, "B", "float32"),
        Line("optimiser", moments, "B", kind),
        Line("averages", averages, "B", "float32"),
        Line(
            "frozen networks",
            BYTES[learner.teacher_dtype] * frozen / ranks,
            "B",
            f"{learner.teacher_dtype}, cut over the ranks",
        ),
    ]
    return [line for line in lines if line.value]


def checkpoint_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes of all ranks in one checkpoint of a stage; 0 for a stage too short to write one."""
    steps = {"teacher": work.pretrain, "ode": work.ode, "dmd": work.dmd, "grpo": work.grpo}[stage].steps
    if steps < work.checkpoint.every:
        return 0.0
    held = trained_network(work, stage).held
    cut = sum(line.value for line in kept_memory(work, stage) if line.name in ("optimiser", "averages"))
    return (1 + with_scores(work, stage)) * TRAINED_BYTES["weights"] * held + cut * work.cluster.learner_ranks


def with_scores(work: RunShape, stage: str) -> bool:
    """Return whether critic and teacher take part in a stage."""
    return stage == "dmd" or bool(stage == "grpo" and work.grpo.dmd_weight)


def _windows_of_pass(work: RunShape, stage: str) -> int:
    """Count the windows of one pass on a rank."""
    if stage == "grpo":
        transitions = 1 if work.group.transitions == "one" else len(work.student.timesteps) - 1
        rows = work.grpo.groups // work.grpo.minibatches * work.group.members * transitions
    else:
        rows = {"teacher": work.pretrain, "ode": work.ode, "dmd": work.dmd}[stage].batch_size
    return work.learner.micro_batch or max(1, rows // work.cluster.data_ranks)


def pass_tokens(work: RunShape, stage: str) -> int:
    """Count the tokens of one pass with gradient on a rank."""
    student, windows = work.student, _windows_of_pass(work, stage)
    tokens = student.wan.tokens_per_frame(student.height, student.width)
    return windows * work.frames(stage)[0] * -(-tokens // work.cluster.sequence_ranks)


def pass_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes of an update's largest moment: a block's backward pass, or the teacher's pass before it."""
    student, learner, ranks = work.student, work.learner, work.cluster.learner_ranks
    wan, windows = trained_network(work, stage).wan, _windows_of_pass(work, stage)
    element, (frames, history) = BYTES[learner.dtype], work.frames(stage)
    tokens, sequence = pass_tokens(work, stage), work.cluster.sequence_ranks
    how = ", checkpointed" if learner.checkpoint_activations else ""
    how += f", tokens split over {sequence} ranks" if sequence > 1 else ""
    kept = activation_bytes(wan, tokens, element, learner.checkpoint_activations, learner.keep_attention)
    clean = 0 if stage == "teacher" else history + frames - student.block_frames
    # FSDP2 makes one block whole, fetches the next, and holds a whole block's gradients until they are reduced.
    sharded = ranks > 1 or learner.dtype != "float32"
    blocks = 3 * block_parameters(wan) * element if sharded else 0
    training = [
        Line("activations", kept, "B", f"{windows} x {frames} frames{how}"),
        Line("gradients of one block", BACKWARD_NUMBERS * tokens * wan.dim * element, "B", "its backward pass"),
        Line("whole blocks", blocks, "B", "one at work, the next, and gradients of one"),
    ]
    if with_scores(work, stage):
        teacher, size = work.teacher_wan, BYTES[learner.teacher_dtype]
        checkpointed = checkpointed_bytes(wan, tokens, element, learner.keep_attention)
        graph = checkpointed if learner.checkpoint_activations else kept
        cut = ranks > 1 or learner.teacher_offload
        scored = forward_bytes(teacher, 2 * tokens, size)
        whole = 2 * block_parameters(teacher) * size if cut else 0
        scoring = [
            Line("activations", graph, "B", f"{windows} x {frames} frames{how}, while the teacher scores"),
            Line("the teacher's pass", scored, "B", f"2 x {windows} x {frames} frames"),
            Line("the teacher's text", 2 * windows * kv_bytes(teacher, teacher.text_len, size), "B", "keys and values"),
            Line("whole blocks", whole, "B", "the teacher's: one at work, and the next"),
        ]
        training = max(training, scoring, key=lambda lines: sum(line.value for line in lines))
    context = context_bytes(work, stage, clean) if stage in ("ode", "dmd") else 0
    text = windows * kv_bytes(wan, wan.text_len, element)
    past = windows * cache_bytes(student, clean, element) / sequence
    lines = [
        *training,
        Line("activations of the context", context, "B", f"{windows} x {clean} clean frames, read with gradient"),
        # The noisy pass's backward makes those of all layers before the clean pass's takes the first.
        Line("gradients of keys and values", past if context else 0, "B", "of the context, from the noisy pass"),
        Line("keys and values of the replay", past, "B", f"{windows} x {clean} clean frames"),
        Line("keys and values of the text", text, "B"),
    ]
    return [line for line in lines if line.value]


def forward_bytes(wan: WanConfig, tokens: int, element: int) -> int:
    """Count the bytes of a block at work without gradient."""
    return FORWARD_NUMBERS * tokens * wan.dim * element
