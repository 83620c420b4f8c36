"""Run parts of a run at Wan's sizes on the null GPU: one JSON object per argument, one line of JSON for each.

    {"what": "dmd", "ranks": 8, "layers": 2, "keys": ["learner.micro_batch=1"], "starts": [300], "fault": null}

A line holds peaks in bytes by part ("peaks"), the bytes that the dry run gives ("planned") and what was watched, or the
type and text of the error.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import device_mesh

import settings
from actors.group_actor import GroupActor
from actors.rollout_actor import RolloutActor
from actors.student_actor import StudentActor
from cluster.planning import memory, rank_memory
from cluster.planning.run_shape import run_shape_of
from learner import build
from learner.parallel import collectives
from learner.stage_config import Source
from models.network_config import CONFIGS, WAN_1_3B, WAN_14B
from models.records import (
    CRITIC,
    GRPO,
    ODE,
    STUDENT,
    Group,
    GroupPlan,
    MadeBlock,
    Rollout,
    Trajectory,
    Weights,
    Window,
    WindowPlan,
)
from models.text.embedding_cache import CachedText
from models.text.umt5 import Umt5
from models.wan.network import ComputeSpec, Wan
from tests.device.faults import planted
from tests.device.guard import Guard
from tests.models.small_text import TEXT_DIM, save_text_encoder

DEVICE = torch.device("cuda")
SOURCE = Source(Path("unread.safetensors"), "teacher")


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
    peaks: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        CONFIGS["wan_1_3b"] = replace(WAN_1_3B, num_layers=self.layers)
        CONFIGS["wan_14b"] = replace(WAN_14B, num_layers=self.teacher_layers)
        given = ["preset=wan_1_3b", f"cluster.learner_ranks={self.ranks}", "learner.compile=false", *self.keys]
        self.config = settings.load([*given, "stage=grpo"] if self.what in ("grpo", "fork") else given)
        self.shape = self.config.student

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Measure the peak of torch's allocator, and what is held behind it."""
        torch.cuda.reset_peak_memory_stats()
        yield
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


def weights_of(names: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors of these shapes in bfloat16, in memory that is never touched."""
    return ((name, torch.empty(shape, dtype=torch.bfloat16)) for name, shape in names.items())


def window(scenario: Scenario, role: str, number: int) -> Window:
    """Make a window of the middle of a video, or of its beginning."""
    start = scenario.starts[number % len(scenario.starts)]
    shape, frames = scenario.shape, scenario.config.window.frames
    history = min(start, shape.context_frames + scenario.config.window.burn_in_frames)
    clean, noisy = torch.zeros(history + frames, *shape.frame_shape), torch.zeros(frames, *shape.frame_shape)
    return Window(
        rollout=number, attempt=0, index=0, role=role, prompt=str(number), seed=number, start=start, step=3,
        versions=(0,), context=clean[:history], latents=clean[history:], noisy=noisy,
        image=torch.zeros(shape.frame_shape) if start else None,
    )  # fmt: skip


def ode(scenario: Scenario) -> None:
    """Make stage ode's learner, and update twice: the second has the optimiser's moments from its start."""
    shape, config = scenario.shape, scenario.config
    states = torch.zeros(4, shape.horizon_frames, *shape.frame_shape, dtype=torch.bfloat16)
    pairs = [Trajectory(i, 0, 0, ODE, "a", i, states, states[0]) for i in range(64)]
    with scenario.measured("build"):
        learner = build.ode_initializer(scenario.parts(), config.ode)
    for _ in range(2):
        with scenario.measured("update"):
            learner.update(pairs, 64)


def dmd(scenario: Scenario) -> None:
    """Make stage dmd's learner; update critic and student twice."""
    config, share = scenario.config, scenario.config.dmd.batch_size // scenario.config.cluster.data_ranks
    with scenario.measured("build"):
        learner = build.dmd_learner(scenario.parts(), config.dmd)
    for _ in range(2):
        with scenario.measured("critic"):
            learner.update_critic([window(scenario, CRITIC, i) for i in range(share)])
        with scenario.measured("student"):
            learner.update_student([window(scenario, STUDENT, i) for i in range(share)])
    if scenario.fault is None:
        with scenario.measured("publish"):
            learner.student.weights()


def grpo(scenario: Scenario) -> None:
    """Make stage grpo's learner, with every loss, and run a round."""
    config, shape = scenario.config, scenario.shape
    members, frames, start = config.group.members, config.group.frames, scenario.starts[0]
    history = min(start, shape.context_frames + config.group.burn_in_frames)
    with scenario.measured("build"):
        learner = build.policy_learner(
            scenario.parts(), replace(config.grpo, critic_warmup=0), config.dmd, config.sentinel,
            rewards=lambda _: {"flow_continuity": 1.0}, window_frames=config.window.frames, coarse=config.group.coarse,
        )  # fmt: skip

    def group(number: int) -> Group:
        parts = torch.zeros(members, 1, frames, *shape.frame_shape)
        return Group(
            rollout=number, attempt=0, index=0, role=GRPO, prompt="a", seed=number, start=start, step=3,
            transitions=(1,), versions=(0,), context=torch.zeros(history, *shape.frame_shape), latents=parts[:, 0],
            noisy=parts[:, 0], states=parts, samples=parts, behaviour=parts,
            scores={"flow_continuity": [[float(i)] for i in range(members)]},
            images=torch.zeros(members, *shape.frame_shape),
        )  # fmt: skip

    # Its boolean index asks how many terms are finite, and a kernel that does nothing leaves any number there.
    learner._replay_metrics = lambda minibatches: {}
    with scenario.measured("round"):
        learner.update([group(i) for i in range(config.grpo.groups // config.cluster.data_ranks)])


@dataclass
class TwoVersions:
    """Gives one version of weights on the GPU, and holds the next, as fetched ahead."""

    tensors: dict[str, Tensor]
    standing_by: dict[str, Tensor]

    def newer(self, than: int | None) -> Weights | None:
        return Weights(0, self.tensors) if than is None else None


class WithoutPixels:
    """Codes latents to a few pixels: convolutions need cuDNN, and `test_fake_vae.py` runs those."""

    channels, time_stride, space_stride = 16, 4, 8

    def decode(self, latents: Tensor, past: int | None = None) -> tuple[Tensor, int]:
        return torch.zeros(len(latents), 4, 3, 8, 8, device=latents.device), 1

    def encode(self, video: Tensor) -> Tensor:
        return torch.zeros(len(video), 1, 16, 60, 104, device=video.device)


def actor_of(kind: type[StudentActor], scenario: Scenario, stage: str) -> StudentActor:
    """Make an actor with random weights on the GPU in bfloat16."""
    with torch.device("meta"):
        names = Wan(scenario.shape.wan).state_dict()
    first, second = (
        {name: torch.empty(t.shape, dtype=torch.bfloat16, device=DEVICE) for name, t in names.items()} for _ in range(2)
    )
    return kind(
        scenario.shape, scenario.config.window_of(stage), lambda prompts: torch.zeros(len(prompts), 512, 4096),
        WithoutPixels(), TwoVersions(first, second), ComputeSpec(DEVICE, torch.bfloat16),
    )  # fmt: skip


def rollout(scenario: Scenario) -> None:
    """Make a video past the roll of its cache, and two windows of it."""
    with scenario.measured("build"):
        actor = actor_of(RolloutActor, scenario, "dmd")
    plans = (WindowPlan(CRITIC, 3, 3, 0), WindowPlan(STUDENT, scenario.starts[0], 3, 1))
    with scenario.measured("rollout"):
        items = list(actor.windows([Rollout(0, 0, "a", 7, 402, plans)]))
    made = [item for item in items if isinstance(item, MadeBlock)]
    assert len(made) * scenario.shape.block_frames == scenario.starts[0] + scenario.config.window.frames


def fork(scenario: Scenario) -> None:
    """Make a group behind a full cache."""
    with scenario.measured("build"):
        actor = actor_of(GroupActor, scenario, "grpo")
    group = scenario.config.group
    plan = GroupPlan(GRPO, scenario.starts[0], 3, 0, group.members, group.frames, (1,), (0,), group.coarse,
                     group.antithetic)  # fmt: skip
    with scenario.measured("group"):
        made = list(actor.windows([Rollout(0, 0, "a", 7, 402, (plan,))]))[-1]
    assert made.latents.shape[:2] == (group.members, group.frames)


def text(scenario: Scenario) -> None:
    """Encode prompts by a small UMT5 in bfloat16, and give its memory back."""
    with TemporaryDirectory() as name:
        folder = save_text_encoder(Path(name))
        encoder = Umt5(folder, TEXT_DIM, 12, DEVICE, torch.bfloat16)
        with scenario.measured("encode"):
            rows = CachedText(encoder, folder / "cache", 12)(["a cat", "a dog walks"])
    assert rows.shape == (2, 12, TEXT_DIM) and rows.device.type == "cpu"


RUNS: dict[str, Callable[[Scenario], None]] = {
    "ode": ode, "dmd": dmd, "grpo": grpo, "rollout": rollout, "fork": fork, "text": text,
}  # fmt: skip
PLANNED = {"rollout": ("dmd", memory.actor_memory), "fork": ("grpo", memory.actor_memory)}


def run(scenario: Scenario) -> dict[str, Any]:
    """Run a scenario as rank 0 of its ranks, with torch's NCCL process group and FSDP2."""
    distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=scenario.ranks)
    collectives.split_sequences(scenario.config.cluster.sequence_ranks)
    guard = Guard()
    try:
        with planted(scenario.fault), guard.watching() if scenario.guarded else nullcontext():
            RUNS[scenario.what](scenario)
    finally:
        distributed.destroy_process_group()
    stage, lines_of = PLANNED.get(scenario.what, (scenario.what, rank_memory.rank_memory))
    lines = [] if scenario.what == "text" else lines_of(run_shape_of(scenario.config), stage)
    planned = {line.name: int(line.value) for line in lines}
    return {"peaks": scenario.peaks, "held": scenario.held, "planned": planned, "operations": guard.operations}


def main() -> None:
    """Run every scenario that is given; an error is a result too."""
    torch.set_num_threads(1)
    torch.backends.cuda.enable_cudnn_sdp(False)  # there is no cuDNN; torch would take it on Hopper
    shapes = {}

    def stored(path: Path, part: str | None = None) -> Iterator[tuple[str, Tensor]]:
        return weights_of(shapes["last"])

    def checked(path: Path, key: str, network: Wan, part: str | None = None) -> None:
        shapes["last"] = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    build.stored_tensors, build.check_weights = stored, checked
    split_group = device_mesh.split_group

    def split(parent_pg: distributed.ProcessGroup, split_ranks: list[list[int]], **options: Any) -> Any:
        os.environ["NULLCUDA_SPLIT_RANKS"] = str(len(split_ranks[0]))
        return split_group(parent_pg=parent_pg, split_ranks=split_ranks, **options)

    device_mesh.split_group = split
    for argument in sys.argv[1:]:
        began = time.process_time()
        try:
            result = run(Scenario(**json.loads(argument)))
        except Exception as error:  # a result: tests assert its type
            result = {"error": type(error).__name__, "text": str(error)[:600]}
        gc.collect()
        torch.cuda.empty_cache()
        print(json.dumps(result | {"cpu_s": round(time.process_time() - began, 2)}), flush=True)


if __name__ == "__main__":
    main()
