"""List what a run needs of the machines that hold its processes: compilers and drivers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.rollout_config import RolloutConfig
from cluster.bootstrap.ray_environment import cluster_address
from cluster.config.cluster_config import ClusterConfig
from cluster.planning.placement import Role
from learner.stage_config import LearnerConfig
from models.errors import ConfigError
from models.wan.device_faults import COMPILER_FIX, DRIVER_FIX, compiler_fault, driver_fault

_GPU_KEYS = {"learner": "cluster.rank_gpus", "rollout": "cluster.actor_gpus", "reward": "cluster.reward_gpus"}
"""Key that asks for the GPUs of a role; an evaluation process is on the nodes of rollout processes."""


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


def machine_needs(roles: Sequence[Role], learner: LearnerConfig, rollout: RolloutConfig) -> list[MachineNeed]:
    """List the needs of the processes of `roles` by their keys, drivers before compilers."""
    needs = []
    for role in roles:
        if role.gpus and role.name in _GPU_KEYS:
            key = _GPU_KEYS[role.name]
            whole = int(role.gpus) if role.gpus == int(role.gpus) else role.gpus
            needs.append(MachineNeed(key, whole, role, DRIVER_FIX.format(key=key), driver_fault))
    for role in roles:
        part = {"learner": learner, "rollout": rollout}.get(role.name)
        if part is not None and part.compile:
            key, device = f"{role.name}.compile", "cuda" if role.gpus else "cpu"
            needs.append(MachineNeed(key, True, role, COMPILER_FIX.format(key=key), compiler_fault, (device,)))
    return needs


def check_this_machine(cluster: ClusterConfig, needs: Sequence[MachineNeed]) -> None:
    """Check this machine, where a run will have no other: inline, or on a Ray of its own. Raises ConfigError.

    The nodes of a cluster are checked once they are joined (`require_nodes`): a head may have neither. Keys that
    describe a cluster (cluster=h100_8) do not name one: without an address they run here.
    """
    if cluster.kind == "ray" and cluster_address(cluster) is not None:
        return
    for need in needs:
        if (fault := need.look(*need.arguments)) is not None:
            joins = ", or name a cluster by cluster.address or RAY_ADDRESS" if cluster.elsewhere else ""
            raise replace(need, fix=need.fix + joins).error(fault)
