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
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import device_mesh

from cluster.planning import memory, rank_memory
from cluster.planning.run_shape import run_shape_of
from learner import build
from learner.parallel import collectives
from learner.parallel.host_memory import HostMemory
from learner.parallel.shard_files import OwnShards
from learner.parallel.sharding import local_shards
from models.records import CRITIC, GRPO, ODE, STUDENT, Group, Trajectory, Window
from models.wan.device_faults import gpu_fault
from models.wan.network import Wan
from tests.device.actor_scenarios import fork, old_driver, rollout, text
from tests.device.faults import planted
from tests.device.guard import Guard
from tests.device.scenario import Scenario, compiled_blocks, falling_gpu

_MOST_COPIED = 8e9
"""Bytes of a checkpoint that this machine has memory for: all of 1.3B on one rank are 40 GB."""


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
        groups, memory = learner.state()[0], defaultdict(HostMemory)
        if sum(shard.nbytes for tensors in groups.values() for shard in local_shards(tensors.values())) > _MOST_COPIED:
            return
        for part in ("checkpoint", "next checkpoint"):
            with scenario.measured(part):
                copies = [OwnShards.of(tensors, memory[name]).tensors for name, tensors in groups.items()]
        scenario.held["copies"] = sum(copy.nbytes for group in copies for copy in group.values())


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

    # It stops a run whose replay is off, and a kernel that does nothing leaves any number there.
    learner._replay_metrics = lambda minibatches: {}
    with scenario.measured("round"):
        learner.update([group(i) for i in range(config.grpo.groups // config.cluster.data_ranks)])


RUNS: dict[str, Callable[[Scenario], None]] = {
    "ode": ode, "dmd": dmd, "grpo": grpo, "rollout": rollout, "fork": fork, "text": text, "old_driver": old_driver,
}  # fmt: skip
WITHOUT_PLAN = ("text", "old_driver")
PLANNED = {"rollout": ("dmd", memory.actor_memory), "fork": ("grpo", memory.actor_memory)}


def run(scenario: Scenario) -> dict[str, Any]:
    """Run a scenario as rank 0 of its ranks, with torch's NCCL process group and FSDP2."""
    distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=scenario.ranks)
    collectives.split_sequences(scenario.config.cluster.sequence_ranks)
    guard = Guard(scenario.config.cluster.sequence_ranks)
    watched = scenario.guarded and scenario.compiled is None
    compiling = nullcontext({}) if scenario.compiled is None else compiled_blocks(scenario.compiled)
    try:
        watching = guard.watching() if watched else nullcontext()
        with planted(scenario.fault), compiling as counts, falling_gpu(scenario.falls_after), watching:
            RUNS[scenario.what](scenario)
    finally:
        distributed.destroy_process_group()
    stage, lines_of = PLANNED.get(scenario.what, (scenario.what, rank_memory.rank_memory))
    lines = [] if scenario.what in WITHOUT_PLAN else lines_of(run_shape_of(scenario.config), stage)
    planned = {line.name: int(line.value) for line in lines}
    return {
        "peaks": scenario.peaks, "held": scenario.held, "waits": scenario.waits, "planned": planned,
        "operations": guard.operations, **counts,
    }  # fmt: skip


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
            result = {"error": type(error).__name__, "text": str(error)[:600], "gpu_fault": gpu_fault(error)}
        gc.collect()
        torch.cuda.empty_cache()
        print(json.dumps(result | {"cpu_s": round(time.process_time() - began, 2)}), flush=True)


if __name__ == "__main__":
    main()
