"""Estimate the memory of whole processes: on a CPU also of libraries, allocator, copies and checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.planning import memory, placement
from cluster.planning.flops import Line
from cluster.planning.rank_memory import (
    PUBLISHING,
    checkpoint_bytes,
    kept_memory,
    pass_memory,
    pass_tokens,
    rank_memory,
    trained_network,
)
from cluster.planning.run_shape import RunShape
from models.network_sizes import BYTES, laid_out_bytes, parameters

LIBRARIES = 930_000_000
"""Bytes of a process that has trained once, without its tensors: torch and what it loads. Measured."""
_PAGED = 32 * 2**20
"""Bytes from which glibc gives a tensor pages of its own, and returns them with it."""
_RETAINED = 0.55
"""Share of a pass of smaller tensors that glibc holds beside it, in pieces. Measured (docs/decisions/0057)."""


@dataclass(frozen=True)
class Processes:
    """Describes the equal processes of one kind in a stage."""

    name: str
    number: int
    memory: list[Line]
    """Bytes of each process at its peak, part by part."""


@dataclass(frozen=True)
class _Half:
    """Lists what one half of a run holds in a process on a CPU."""

    kept: list[Line]
    passes: list[Line]
    """Bytes of the longest pass through a network."""
    others: Sequence[list[Line]] = ()
    """Bytes of other moments, of which none meets the pass."""
    checkpoint: float = 0.0
    """Bytes of the checkpoint that is written in the background."""


def processes_of(work: RunShape, stage: str) -> list[Processes]:
    """List the processes of a stage: ranks, rollout and reward processes, or the one process of cluster=inline."""
    ranks, actors = work.cluster.learner_ranks, work.cluster.rollout_actors
    actor = memory.actor_memory(work, stage) if stage != "teacher" else []
    if work.expected_device != "cpu":
        learner = rank_memory(work, stage)
    else:
        kept = [replace(line, name=f"{line.name}, rollout") for line in actor if line.name.startswith("weights")]
        wan, dtype = work.teacher_wan if stage == "ode" else work.student.wan, work.rollout.dtype
        if actor:
            kept.append(Line("laid-out weights", laid_out_bytes(wan, dtype), "B", f"{dtype}, for the actor's products"))
        passes = [line for line in actor if not line.name.startswith("weights")]
        halves = _learner(work, stage), _Half(kept, passes)
        if work.cluster.kind == "inline":
            return [Processes("the process", 1, _cpu_memory(work, stage, halves))]
        learner, actor = (_cpu_memory(work, stage, [half]) for half in halves)
    kinds = [Processes("one learner rank", ranks, learner)]
    if stage != "teacher":
        kinds.append(Processes("one rollout process", actors, actor))
    scorer = memory.reward_memory(work)
    if not work.cluster.reward_gpus:
        scorer.insert(0, Line("libraries", LIBRARIES, "B", "torch and what it loads; measured"))
    if stage == "grpo" and (work.cluster.reward_gpus or work.expected_device == "cpu"):  # no host of a GPU is counted
        kinds.append(Processes("one reward process", work.cluster.reward_actors, scorer))
    return kinds


def card_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes of rollout and reward processes that may share one GPU, as Ray packs them at their most."""
    actor = total_bytes(memory.actor_memory(work, stage)) if stage != "teacher" else 0.0
    shares = work.cluster.actor_gpus or 1.0, work.cluster.reward_gpus if stage == "grpo" else 0.0
    scorer = total_bytes(memory.reward_memory(work)) if shares[1] else 0.0
    packings = []
    for actors in range(1 + min(work.most_actors, max(1, placement.whole_shares(1.0, shares[0])))):
        left = max(0.0, 1.0 - actors * shares[0])
        scorers = min(work.cluster.reward_actors, placement.whole_shares(left, shares[1])) if shares[1] else 0
        packings.append((actors, scorers))
    actors, scorers = max(packings, key=lambda packing: packing[0] * actor + packing[1] * scorer)
    lines = [
        Line("rollout processes", actors * actor, "B", f"{actors}, the evaluation process among them"),
        Line("reward processes", scorers * scorer, "B", f"{scorers}, with cluster.reward_gpus={shares[1]:g}"),
    ]
    return [line for line in lines if line.value]


def _learner(work: RunShape, stage: str) -> _Half:
    trained = trained_network(work, stage).trained
    kept, copied = kept_memory(work, stage), checkpoint_bytes(work, stage) / work.cluster.learner_ranks
    if stage in PUBLISHING:
        dtype = work.rollout.dtype
        size = BYTES[dtype] * parameters(work.student.wan)
        kept.append(Line("published copy", size, "B", f"{dtype}, of the student"))
    if stage not in PUBLISHING:  # Muon has one moment of a matrix, AdamW two of any other weight
        moments = sum(line.value for line in kept if line.name == "optimiser")
        trained = moments * work.cluster.learner_ranks / BYTES["float32"] - trained
    others = [[Line("square roots of AdamW", BYTES["float32"] * trained, "B", "one step of an optimiser")]]
    if not work.checkpoint.asynchronous:
        others.append([Line("checkpoint", copied, "B", "a copy, while it is written")])
        copied = 0.0
    return _Half(kept, pass_memory(work, stage), others, copied)


def _cpu_memory(work: RunShape, stage: str, halves: Sequence[_Half]) -> list[Line]:
    """List the bytes of a process whose `halves` take turns."""
    passes = max((half.passes for half in halves), key=total_bytes)
    moments = [passes, *(other for half in halves for other in half.others)]
    copied = sum(half.checkpoint for half in halves)
    tensor = pass_tokens(work, stage) * trained_network(work, stage).wan.dim * BYTES[work.learner.dtype]
    pieces = _RETAINED * total_bytes(passes) if tensor < _PAGED else 0.0
    lines = [
        Line("libraries", LIBRARIES, "B", "torch and what it loads; measured"),
        *(line for half in halves for line in half.kept),
        *max(moments, key=total_bytes),
        Line("checkpoint", copied, "B", "a copy, while it is written in the background"),
        Line("allocator", max(0.0, pieces - copied), "B", "pieces of passes, where no copy of a checkpoint lies"),
    ]
    return [line for line in lines if line.value]


def total_bytes(lines: Iterable[Line]) -> float:
    """Add up the bytes of lines."""
    return sum(line.value for line in lines)
