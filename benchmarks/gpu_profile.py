"""Profile one block of a rollout and one update of stage dmd's critic, with random weights, as Chrome traces.

python -m benchmarks.gpu_profile out=FOLDER model=tiny         CPU, seconds
python -m benchmarks.gpu_profile out=FOLDER model=wan_1_3b     a GPU: 480x832, bfloat16

Writes block.trace.json.gz and update.trace.json.gz into `out`, for chrome://tracing or Perfetto, and prints one JSON
line for each: the share of the wall time in which kernels ran (on a CPU: operators), and the five that took longest.
Every layer launches the same kernels, and a student's update the same as a critic's: more of them take minutes to
write. Profiling itself slows the host: speeds are those of benchmarks.rollout_fps and benchmarks.update_speed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import MODELS, keep_layers, measured_student
from benchmarks.random_learner import configured, one_rank, updates_of
from benchmarks.rollout_fps import device_name, endless
from models.keys import KeyGroup, key
from models.user_paths import user_path

_TOP = 5
"""Operators that a line names."""


@dataclass(kw_only=True)
class ProfileOptions(KeyGroup):
    """Describes what is profiled."""

    out: str = key("runs/profile", "folder for the traces")
    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    layers: int = key(10, "most layers of the networks", ge=1)


def main(options: ProfileOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = user_path(options.out, "out")
    folder.mkdir(parents=True, exist_ok=True)
    keep_layers(options.model, options.layers)
    shown = {"model": options.model, "layers": options.layers, "torch": torch.__version__}
    student = measured_student(options.model)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    blocks = endless(student, device, dtype, compiled=False)
    for _ in range(student.attention_frames // student.block_frames + 1):
        next(blocks)
    traced("block", partial(next, blocks), device, folder, shown)
    del blocks  # its cache takes 6 GB
    with one_rank(device):
        update = updates_of("critic", configured("dmd", options.model, compiled=False), device)
        update()
        traced("update", update, device, folder, shown)


def traced(name: str, work: Callable[[], object], device: torch.device, folder: Path, shown: dict[str, object]) -> None:
    """Profile one call of `work`, write its trace and print its line."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        wall_s = time.perf_counter() - began
    profiler.export_chrome_trace(str(folder / f"{name}.trace.json.gz"))
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU  # operators on a GPU carry their kernels' time once more
    averages = [event for event in profiler.key_averages() if event.device_type == kind]

    def own_s(event) -> float:
        return (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6

    longest = sorted(averages, key=own_s, reverse=True)[:_TOP]
    print_line(
        f"profile_{name}", [sum(map(own_s, averages)) / wall_s], "share of the wall time in kernels",
        device_name(device), shown, limit=1.0, wall_s=round(wall_s, 4), trace=f"{name}.trace.json.gz",
        operators=sum(event.count for event in averages),
        longest={event.key[:80]: {"s": round(own_s(event), 6), "calls": event.count} for event in longest},
    )  # fmt: skip


if __name__ == "__main__":
    run(main, __doc__, ProfileOptions)
