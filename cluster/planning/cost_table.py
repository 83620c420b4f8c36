"""What a block and a window are expected to cost: given, measured, or by the operations that a device can do."""

from dataclasses import dataclass

from cluster.config.devices import DEVICES
from cluster.config.plan_config import COSTS, PlanConfig
from cluster.config.run_config import Config
from cluster.planning import placement, wan_costs
from cluster.planning.measured_costs import Seconds, read_costs
from cluster.planning.simulator import Pace
from cluster.planning.stage_costs import critic_window_flops, history_frames, seconds, student_window_flops
from models.user_paths import user_path

PUBLISH_S_PER_BYTE = 0.13e-9
"""What handing over takes from the learner: benchmarks/weight_sync, 65 ms for 500 MB on two CPU cores."""


@dataclass(frozen=True)
class Cost:
    """Seconds on one GPU, and how they are known."""

    seconds: float
    source: str


def find_costs(plan: PlanConfig, config: Config) -> dict[str, Cost]:
    """Every cost by its key in PlanConfig: given there, else measured, else from the table of the expected device.

    Raises ValueError for a file that cannot be used, and for a cost that is both given and in the file.
    """
    found = {name: Cost(value, _table_of(config, name)) for name, value in table_costs(config).items()}
    if plan.costs is not None:
        measured, source = read_costs(user_path(plan.costs, "plan.costs"), config)
        for name in (name for name in measured if getattr(plan, name) is not None):
            raise ValueError(
                f"plan.{name}={getattr(plan, name)} is given, and plan.costs={plan.costs} says {measured[name]:.4g}; "
                "leave one of them out"
            )
        found |= {name: Cost(value, source) for name, value in measured.items()}
    given = {name: getattr(plan, name) for name in COSTS}
    return found | {name: Cost(value, f"plan.{name}") for name, value in given.items() if value is not None}


def table_costs(config: Config) -> Seconds:
    """By the operations of every part, at the share of its peak that the device is expected to sustain."""
    student, rollout = config.student, config.rollout
    blocks = rollout.frames // student.block_frames
    # Actors that share a GPU share its speed, whatever each was promised; one with several GPUs uses one of them.
    actor = min(1.0, 1 / placement.processes_per_gpu(placement.rollout(config)))
    block = rollout.batch * wan_costs.rollout_flops(student, rollout.frames) / blocks
    cut = wan_costs.image_latent_flops(student, history_frames(config, "dmd")) if config.in_wan_world else 0.0
    weights = wan_costs.parameters(student.wan) * wan_costs.BYTES[config.rollout.dtype]
    return {
        "block_s": seconds(config, block, 1) / actor,
        "cut_s": seconds(config, cut, 1) / actor,
        "student_window_s": seconds(config, student_window_flops(config, "dmd"), 1),
        "critic_window_s": seconds(config, critic_window_flops(config, "dmd"), 1),
        "publish_s": weights * PUBLISH_S_PER_BYTE,
    }


def _table_of(config: Config, name: str) -> str:
    if name == "publish_s":
        return f"{PUBLISH_S_PER_BYTE * 1e9:g} s for each GB of weights (benchmarks/weight_sync)"
    expected = config.expected_device
    device = DEVICES[expected]
    return f"table: {device.sustained:.0%} of {device.peak_flops / 1e12:.4g} TFLOP/s (device_name={expected})"


def pace(found: dict[str, Cost], config: Config) -> Pace:
    """The pace of actors and of a learner whose ranks share each batch."""
    share = config.dmd.batch_size / config.cluster.learner_ranks
    return Pace(
        block_s=found["block_s"].seconds,
        cut_s=found["cut_s"].seconds,
        student_s=share * found["student_window_s"].seconds,
        critic_s=share * found["critic_window_s"].seconds,
        publish_s=found["publish_s"].seconds,
    )
