"""Describe this machine's GPU, driver and libraries in one JSON line, and check that a network of Wan's size fits.

python -m benchmarks.gpu_machine model=wan_1_3b     on a machine with a GPU; an error in one line where torch finds none
python -m benchmarks.gpu_machine device=cpu         a rehearsal

The value is the memory of the device in GB, its limit what one update of stage grpo needs by the dry run.
"""

import os
import platform
from bisect import bisect_left
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import MODELS, keep_layers, measured_student
from benchmarks.random_learner import STAGES, configured
from benchmarks.rollout_fps import device_name
from cluster.planning import rank_memory
from cluster.planning.run_shape import run_shape_of
from models.errors import ConfigError
from models.keys import KeyGroup, key
from models.network_config import CONFIGS
from models.wan.device_faults import compiler_fault, driver_fault

KINDS = ("cuda", "cpu")


@dataclass(kw_only=True)
class MachineOptions(KeyGroup):
    """Names the device and the size of the networks."""

    device: str = key("cuda", "device: cuda, or cpu for a rehearsal", choices=KINDS)
    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    layers: int | None = key(None, "layers of the networks; none: all", ge=1)


def main(options: MachineOptions) -> None:
    """Print the line. Raises ConfigError without a GPU, or with one that is too small."""
    device = torch.device(options.device)
    if options.device == "cuda":
        fix = "install a driver, or make a GPU visible (CUDA_VISIBLE_DEVICES); a rehearsal: device=cpu model=tiny"
        if (fault := driver_fault()) is not None:
            raise ConfigError("device", "cuda", fault, fix)
        try:
            torch.cuda.init()
        except RuntimeError as error:  # no GPU is visible, or one that does not answer
            problem = " ".join(str(error).split())[:200]
            raise ConfigError("device", "cuda", problem, fix) from error
    facts, room = machine_facts(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if options.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        room = found.total_memory
        facts |= {
            "capability": f"{found.major}.{found.minor}",
            "gpus": torch.cuda.device_count(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "cudnn": torch.backends.cudnn.version(),
        }
    keep_layers(options.model, options.layers)
    needed = largest_update(options.model)
    shown = {"model": options.model, "layers": options.layers}
    if needed > room:
        layers = most_layers(options.model, room)
        problem = f"one update would hold {needed / 1e9:.1f} GB, and the device has {room / 1e9:.1f}"
        raise ConfigError("layers", options.layers, problem, f"write layers={layers}: rates stay those of a layer")
    print_line("machine", [room / 1e9], "GB", device_name(device), shown, limit=needed / 1e9, **facts)


def largest_update(model: str) -> float:
    """Count the bytes of the largest of the updates that are measured, by the dry run."""
    works = ((stage, run_shape_of(configured(stage, model, compiled=False))) for stage in STAGES)
    return max(sum(line.value for line in rank_memory.rank_memory(work, stage)) for stage, work in works)


def most_layers(model: str, room: float) -> int:
    """Return the most layers, at least 1, with which every update fits into `room` bytes; cuts this process's networks.

    Bisects: a dry run of all stages takes a second.
    """
    name = measured_student(model).model
    whole = CONFIGS[name]

    def exceeds(layers: int) -> bool:
        CONFIGS[name] = replace(whole, num_layers=layers)
        return largest_update(model) > room

    return max(1, bisect_left(range(1, whole.num_layers), True, key=exceeds))


def machine_facts() -> dict[str, object]:
    """Return versions and sizes that decide whether a run works here."""
    shared = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    attention = [name for name in ("flash_attn_interface", "flash_attn") if find_spec(name) is not None]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "compiler_fault": compiler_fault("cuda"),
        "flash_attention": attention,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "shm_gb": None if shared is None else round(shared.f_frsize * shared.f_blocks / 1e9, 1),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def driver_version() -> str | None:
    """Return the version of NVIDIA's kernel driver, None where there is none."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


if __name__ == "__main__":
    run(main, __doc__, MachineOptions)
