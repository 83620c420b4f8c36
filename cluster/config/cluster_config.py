"""Declare the keys of a run's processes, of its log, and of debugging one half of it."""

import re
from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key

_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL = re.compile(rf"([a-z0-9.-]+/)?{_NAME}")


@dataclass(kw_only=True)
class ClusterConfig(KeyGroup, group="cluster"):
    """Configures the processes of a run, their nodes and GPUs, and their time-outs."""

    kind: str = key(
        "ray", "processes of the run: ray (actors and learner apart) or inline (one process)", choices=("ray", "inline")
    )
    address: str | None = key(None, "address of the Ray cluster to join; none starts a local Ray")
    rollout_actors: int = key(1, "number of rollout processes", ge=1, le=100_000)
    actor_gpus: float = key(0.0, "GPUs of each rollout process; 0 rolls out on the CPU", ge=0)
    learner_ranks: int = key(
        1, "number of learner processes, over which the networks are sharded (FSDP2)", ge=1, le=100_000
    )
    sequence_ranks: int = key(
        1, "number of learner ranks that split the tokens of one window (Ulysses sequence parallelism)", ge=1, le=1024
    )
    reward_actors: int = key(
        1, "number of reward processes, which decode and score groups (stage grpo)", ge=1, le=100_000
    )
    reward_gpus: float = key(0.0, "GPUs of each reward process; 0 scores on the CPU", ge=0)
    rank_gpus: float = key(0.0, "GPUs of each learner rank, 0 or 1", ge=0)
    threads: int = key(1, "torch CPU threads of each process", ge=1, le=4096)
    timeout_s: float = key(600.0, "longest wait for windows, or for another rank, in seconds", gt=0)
    start_timeout_s: float = key(600.0, "longest start of one process, in seconds", gt=0)
    progress_timeout_s: float = key(
        300.0, "longest time between two blocks of a rollout process, in seconds; then it is replaced", gt=0
    )
    slow_factor: float = key(10.0, "a rollout process this many times slower than the median is replaced", gt=1)
    weight_transport: str = key(
        "object_store",
        "transport of weights to actors: object_store (any pool) or collective (NCCL or Gloo, fixed pools)",
        choices=("object_store", "collective"),
    )
    relay_gpus: float = key(
        0.1, "GPUs of the process that sends weights, with weight_transport=collective and actor_gpus", ge=0
    )
    learner_labels: dict[str, str] = key({}, "labels of the nodes for learner ranks, as {role: learner}; {}: any node")
    rollout_labels: dict[str, str] = key({}, "labels of the nodes for rollout and reward processes; {}: any node")
    rollout_prefers: dict[str, str] = key({}, "labels of the nodes filled first, as {ray.io/market-type: spot}")
    gpus: int | None = key(None, "largest number of GPUs that the cluster can have; none: unlimited", ge=1)
    node_gpus: int | None = key(None, "GPUs of each node, which serves one set of labels; none: unknown", ge=1, le=1024)
    nodes_timeout_s: float = key(600.0, "longest wait for the nodes of a joined cluster, in seconds", gt=0)
    first_actors: int | None = key(
        None, "rollout processes that must have a node before the run starts; none: all", ge=1
    )
    restarts: int = key(3, "largest number of restarts of lost learner ranks or of a lost coordinator", ge=0)

    def __post_init__(self):
        super().__post_init__()
        if self.kind == "inline" and self.learner_ranks > 1:
            raise ConfigError("cluster.learner_ranks", self.learner_ranks, "inline is one process", "write cluster=ray")
        if self.rank_gpus not in (0, 1):
            raise ConfigError("cluster.rank_gpus", self.rank_gpus, "no whole GPU", "write cluster.rank_gpus=0 or 1")
        for name in ("rank_gpus", "actor_gpus", "reward_gpus", "relay_gpus"):
            share = getattr(self, name)
            if self.kind == "inline" and share and name != "relay_gpus":
                raise ConfigError(
                    f"cluster.{name}", share, "inline computes on the CPU", f"write cluster=ray, or cluster.{name}=0"
                )
            if share > 1 and share % 1:
                raise ConfigError(
                    f"cluster.{name}", share, "neither a share of one GPU nor whole GPUs", "write 1 or less, or whole"
                )
            if self.node_gpus is not None and share > self.node_gpus:
                raise ConfigError(
                    f"cluster.{name}",
                    share,
                    f"a process is on one node, of cluster.node_gpus={self.node_gpus}",
                    f"write cluster.{name}={self.node_gpus} or less",
                )
        if self.first_actors is not None and self.first_actors > self.rollout_actors:
            raise ConfigError(
                "cluster.first_actors",
                self.first_actors,
                f"more than cluster.rollout_actors={self.rollout_actors}",
                f"write cluster.first_actors={self.rollout_actors} or less",
            )
        for name in ("learner_labels", "rollout_labels", "rollout_prefers"):
            for label, value in getattr(self, name).items():
                if not _LABEL.fullmatch(label) or not re.fullmatch(_NAME, value):
                    raise ConfigError(
                        f"cluster.{name}",
                        {label: value},
                        "no label of a node",
                        f"write cluster.{name}={{role: learner}}, letters, digits and -_. only",
                    )

    @property
    def data_ranks(self) -> int:
        """Return the number of shares of a batch: groups of ranks that split the tokens of one window."""
        return self.learner_ranks // self.sequence_ranks

    @property
    def elsewhere(self) -> bool:
        """Return whether the keys describe a remote cluster, which a submission uploads to."""
        return bool(self.address or self.gpus or self.learner_labels or self.rollout_labels)


@dataclass(kw_only=True)
class WandbConfig(KeyGroup, group="wandb"):
    """Configures the log at Weights & Biases."""

    mode: str = key(
        "offline",
        "logging to Weights & Biases: online, offline (files in the run folder) or disabled; "
        "log.to=[wandb,tensorboard] sets it and tensorboard",
        choices=("online", "offline", "disabled"),
    )
    project: str = key("longtake", "project at Weights & Biases")


@dataclass(kw_only=True)
class DebugConfig(KeyGroup, group="debug"):
    """Configures runs of one half of stage dmd alone, to find which half is slow or wrong."""

    rollout_only: bool = key(False, "run the rollout pool alone, with the first weights of stage dmd")
    learner_only: bool = key(False, "run the learner alone, repeatedly on windows saved by debug.rollout_only")
    windows: str | None = key(None, "folder of windows saved by debug.rollout_only; none: saved_windows in run_dir")
    count: int = key(128, "number of windows that debug.rollout_only saves, rounded up to whole updates", ge=1)

    def __post_init__(self):
        super().__post_init__()
        if self.rollout_only and self.learner_only:
            raise ConfigError(
                "debug.learner_only", True, "debug.rollout_only=true too", "save windows first, then train on them"
            )

    @property
    def half(self) -> str | None:
        """Return the half that runs alone, if one does."""
        return "rollout_only" if self.rollout_only else "learner_only" if self.learner_only else None
