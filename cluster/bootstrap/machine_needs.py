"""List what a run needs of the machines that hold its processes: compilers and drivers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.rollout_config import RolloutConfig
from cluster.bootstrap.ray_environment import cluster_address
from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.planning.placement import Role
from learner.stage_config import LearnerConfig
from models.errors import ConfigError
from models.wan.device_faults import COMPILER_FIX, DRIVER_FIX, compiler_fault, driver_fault


@dataclass(frozen=True)
class MachineNeed:
    """Describes what a key needs of every machine that may hold processes of a role."""

    key: str
    value: Any
    role: Role
    fix: str
    look: Callable[..., str | None]
    """Function that names the machine's fault, or returns None; called there with `arguments`."""
    arguments: tuple[str, ...] = ()

    def error(self, fault: str) -> ConfigError:
        """Return the error for a `fault`."""
        return ConfigError(self.key, self.value, fault, self.fix)


def machine_needs(cluster: ClusterConfig, learner: LearnerConfig, rollout: RolloutConfig) -> list[MachineNeed]:
    """List the needs of learner ranks and rollout processes, drivers before compilers."""
    needs = []
    for role, key in ((placement.learner(cluster), "rank_gpus"), (placement.rollout(cluster), "actor_gpus")):
        if role.gpus:
            fix = DRIVER_FIX.format(key=f"cluster.{key}")
            needs.append(MachineNeed(f"cluster.{key}", role.gpus, role, fix, driver_fault))
    for role, part in ((placement.learner(cluster), learner), (placement.rollout(cluster), rollout)):
        if part.compile:
            key, device = f"{role.name}.compile", "cuda" if role.gpus else "cpu"
            needs.append(MachineNeed(key, True, role, COMPILER_FIX.format(key=key), compiler_fault, (device,)))
    return needs


def check_this_machine(cluster: ClusterConfig, needs: Sequence[MachineNeed]) -> None:
    """Check this machine, where a run will have no other. Raises ConfigError.

    The nodes of a cluster are checked once they are joined (`require_nodes`): a head may have neither.
    """
    if cluster.kind == "ray" and (cluster_address(cluster) is not None or cluster.elsewhere):
        return
    for need in needs:
        if (fault := need.look(*need.arguments)) is not None:
            raise need.error(fault)
