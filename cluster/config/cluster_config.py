"""Keys of who runs where, and of what is logged and tried beside training. Imports no torch: help must be quick."""

import re
from dataclasses import dataclass

from models.keys import key, require_positive

_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL = re.compile(rf"([a-z0-9.-]+/)?{_NAME}")


@dataclass(kw_only=True)
class ClusterConfig:
    """Who runs where."""

    kind: str = key("ray", "ray (actors and learner in processes of their own) or inline (one process)")
    address: str | None = key(None, "Ray cluster to join; without one the command starts a local Ray")
    rollout_actors: int = key(1, "processes that make rollouts")
    actor_gpus: float = key(0.0, "GPUs of each rollout process; 0 rolls out on the CPU")
    learner_ranks: int = key(1, "processes that train together, the networks sharded over them (FSDP2)")
    reward_actors: int = key(
        1, "processes that decode and score groups (stage grpo); more than rollout_actors are never busy together"
    )
    reward_gpus: float = key(
        0.0, "GPU share of each of them: the VAE decodes there, and reward.flow=raft computes there"
    )
    rank_gpus: float = key(0.0, "GPUs of each learner rank, 0 or 1")
    threads: int = key(1, "torch threads per process; two beside a busy process were measured 12 times slower")
    timeout_s: float = key(600.0, "longest wait for windows, or of one rank for another, before the run stops")
    start_timeout_s: float = key(600.0, "longest start of a process")
    progress_timeout_s: float = key(
        300.0, "longest silence of a rollout process between two blocks; then it is replaced"
    )
    slow_factor: float = key(10.0, "a rollout process this many times slower than the pool's median is replaced")
    weight_transport: str = key("object_store", "object_store (any pool) or collective (NCCL or Gloo, fixed pools)")
    relay_gpus: float = key(0.1, "GPU share of the process that sends weights, with collective and actor_gpus")
    learner_labels: dict[str, str] = key({}, "labels of the nodes for learner ranks, as {role: learner}; {}: any node")
    rollout_labels: dict[str, str] = key({}, "labels of the nodes for rollout and reward processes; {}: any node")
    rollout_prefers: dict[str, str] = key(
        {}, "labels that are filled first among those nodes, as {ray.io/market-type: spot}"
    )
    gpus: int | None = key(None, "GPUs that the cluster can ever have; a run that needs more is refused at once")
    node_gpus: int | None = key(None, "GPUs of each of its nodes; nodes with a label serve no other label")
    nodes_timeout_s: float = key(600.0, "longest wait for the nodes of a joined cluster to register")
    first_actors: int | None = key(
        None, "rollout processes that the start waits to have room for, the others come later; without, all"
    )
    restarts: int = key(3, "times that lost learner ranks or a lost coordinator are started again")

    def __post_init__(self):
        if self.weight_transport not in ("object_store", "collective"):
            raise ValueError(
                f'cluster.weight_transport is "{self.weight_transport}"; set it to object_store or collective'
            )
        if self.kind not in ("ray", "inline"):
            raise ValueError(f'cluster.kind is "{self.kind}"; set cluster to ray or inline')
        counts = ("rollout_actors", "reward_actors", "learner_ranks", "threads")
        given = [name for name in ("gpus", "node_gpus", "first_actors") if getattr(self, name) is not None]
        waits = ("timeout_s", "start_timeout_s", "progress_timeout_s", "nodes_timeout_s")
        require_positive("cluster", self, *counts, *given, *waits)
        if self.kind == "inline" and self.learner_ranks > 1:
            raise ValueError(
                f"cluster.learner_ranks is {self.learner_ranks}, but inline is one process; set cluster=ray"
            )
        if self.rank_gpus not in (0, 1):
            raise ValueError(f"cluster.rank_gpus is {self.rank_gpus}; it must be 0 or 1")
        gpus = [name for name in ("rank_gpus", "actor_gpus", "reward_gpus") if getattr(self, name)]
        if self.kind == "inline" and gpus:
            given = ", ".join(f"cluster.{name} is {getattr(self, name):g}" for name in gpus)
            raise ValueError(f"{given}, and inline computes on the CPU; set cluster=ray, or each of them to 0")
        if not self.slow_factor > 1:
            raise ValueError(f"cluster.slow_factor is {self.slow_factor}; it must be above 1")
        for name in ("restarts", "actor_gpus", "reward_gpus", "rank_gpus", "relay_gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must be 0 or above")
        self._check_shares()
        self._check_labels()

    @property
    def elsewhere(self) -> bool:
        """Whether the keys speak of a cluster of others, where a submission goes."""
        return bool(self.address or self.gpus or self.learner_labels or self.rollout_labels)

    def _check_shares(self) -> None:
        for name in ("actor_gpus", "reward_gpus", "relay_gpus"):
            share = getattr(self, name)
            if share > 1 and share % 1:
                raise ValueError(f"cluster.{name} is {share}; Ray gives a share of one GPU, or whole ones")
            if self.node_gpus is not None and share > self.node_gpus:
                raise ValueError(
                    f"cluster.{name} is {share:g}, and a process is on one node, of cluster.node_gpus = "
                    f"{self.node_gpus}; lower it"
                )
        if self.first_actors is not None and self.first_actors > self.rollout_actors:
            raise ValueError(
                f"cluster.first_actors is {self.first_actors}, more than cluster.rollout_actors = "
                f"{self.rollout_actors}; lower it"
            )

    def _check_labels(self) -> None:
        for name in ("learner_labels", "rollout_labels", "rollout_prefers"):
            for label, value in getattr(self, name).items():
                if not _LABEL.fullmatch(label) or not re.fullmatch(_NAME, value):
                    raise ValueError(
                        f'cluster.{name} has "{label}: {value}"; write it as {{role: learner}}, letters, digits and '
                        "-_. only"
                    )


@dataclass(kw_only=True)
class WandbConfig:
    """Weights & Biases."""

    mode: str = key("offline", "online, offline (files in the run folder) or disabled")
    project: str = key("longtake", "project that runs are logged to")

    def __post_init__(self):
        if self.mode not in ("online", "offline", "disabled"):
            raise ValueError(f'wandb.mode is "{self.mode}"; set it to online, offline or disabled')


@dataclass(kw_only=True)
class DebugConfig:
    """Each half of stage dmd alone, to find out which of them is slow or wrong."""

    rollout_only: bool = key(False, "only the rollout pool, with the weights that stage dmd would start from")
    learner_only: bool = key(False, "only the learner, on windows that rollout_only saved, again and again; no actors")
    windows: str | None = key(None, "folder of the saved windows; without, saved_windows in run_dir")
    count: int = key(128, "windows that rollout_only saves, rounded up to whole updates")

    def __post_init__(self):
        if self.rollout_only and self.learner_only:
            raise ValueError(
                "debug.rollout_only and debug.learner_only are both true; save windows with the one, then use the other"
            )
        require_positive("debug", self, "count")

    @property
    def half(self) -> str | None:
        """The half that runs alone, if one does."""
        return "rollout_only" if self.rollout_only else "learner_only" if self.learner_only else None
