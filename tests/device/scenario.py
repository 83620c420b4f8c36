"""Describe a run on the null GPU, measure its memory, count its graphs, and let its GPU fail."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, fx

import settings
from cluster.config.run_config import Config
from learner import build
from learner.stage_config import Source
from models.network_config import CONFIGS, WAN_1_3B, WAN_14B
from models.wan.network import Wan

DEVICE = torch.device("cuda")
SOURCE = Source(Path("unread.safetensors"), "teacher")


@cache
def configuration(*keys: str) -> Config:
    """Load the configuration of preset=wan_1_3b with `keys`: once, because that takes as long as many a scenario."""
    return settings.load(["preset=wan_1_3b", *keys])


@dataclass
class Scenario:
    """Holds one run's configuration and what was measured."""

    what: str
    ranks: int = 8
    layers: int = 30
    teacher_layers: int = 40
    keys: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [300])
    """First frames of windows, in turn."""
    fault: str | None = None
    guarded: bool = True
    falls_after: int = 0
    """Launches after which the GPU fails for good; 0 for never."""
    compiled: str | None = None
    """Backend that compiles blocks: aot_eager traces as Inductor does, eager by Dynamo alone. Needs no guard."""
    peaks: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    waits: dict[str, list[int]] = field(default_factory=dict)
    """Waits of the host for the GPU by part, copies between them to or from memory that is not pinned, bytes pinned."""

    def __post_init__(self):
        CONFIGS["wan_1_3b"] = replace(WAN_1_3B, num_layers=self.layers)
        CONFIGS["wan_14b"] = replace(WAN_14B, num_layers=self.teacher_layers)
        stage = ["stage=grpo"] if self.what in ("grpo", "fork") else []
        config = configuration(f"cluster.learner_ranks={self.ranks}", *self.keys, *stage)
        self.config = replace(config, learner=replace(config.learner, compile=self.compiled is not None))
        self.shape = self.config.student

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Measure the peak of torch's allocator, what is held behind it, and what made the host wait."""
        torch.cuda.reset_peak_memory_stats()
        counted = ("syncs", "pageable", "pinned_bytes")
        before = [counter(name) for name in counted]
        yield
        self.waits[part] = [counter(name) - first for name, first in zip(counted, before, strict=True)]
        self.peaks[part] = torch.cuda.max_memory_allocated()
        self.held[part] = torch.cuda.memory_allocated()

    def parts(self) -> build.LearnerParts:
        """Return the parts of a learner whose weights come from no file."""
        sources = {role: SOURCE for role in ("student", "critic", "teacher")}
        return build.LearnerParts(
            student=self.shape, teacher_wan=CONFIGS[self.config.teacher_model or self.shape.model],
            learner=self.config.learner, encode_text=lambda prompts: torch.zeros(len(prompts), 512, 4096),
            sources=sources, seed=0, device=DEVICE,
        )  # fmt: skip


def counter(name: str) -> int:
    """Read what the null GPU counts."""
    return ctypes.c_long.in_dll(ctypes.CDLL(None), f"nullcuda_{name}").value


@contextmanager
def compiled_blocks(backend: str) -> Iterator[dict[str, int]]:
    """Compile blocks by `backend`; yields counts of graphs and of their breaks."""
    counts, compile_graph = {"graphs": 0, "breaks": 0}, torch._dynamo.lookup_backend(backend)

    def counted(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
        counts["graphs"] += 1
        return compile_graph(graph, inputs)

    own = Wan.compile_blocks
    Wan.compile_blocks = lambda network: own(network, counted)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    try:
        yield counts
        counts["breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
    finally:
        Wan.compile_blocks = own


@contextmanager
def falling_gpu(after: int) -> Iterator[None]:
    """Let the GPU fail for good `after` more launches; 0 for never."""
    library = ctypes.CDLL(None)
    falls_after, launches = (ctypes.c_long.in_dll(library, f"nullcuda_{name}") for name in ("falls_after", "launches"))
    falls_after.value = after and launches.value + after
    try:
        yield
    finally:
        falls_after.value = 0
