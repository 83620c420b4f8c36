"""Run the reward pool on Ray: processes that decode and score groups, replaced when lost or hung."""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.pool.rollout_process import fetch
from cluster.run_errors import RunFailed
from cluster.runs.factory import make_scorer
from cluster.runs.stage_spec import ScorerSpec
from cluster.runs.trace import Span, Tracer
from cluster.supply.wire import BadWindow, Header
from models.records import GRPO, first_frames
from models.wan.device_faults import gpu_fault

_LOST_IN_A_ROW = 3
"""Number of processes lost on one group after which its scores count as missing."""
_MOST_REPORTED = 20
"""Number of failures of one reward shown on the terminal; the log of the process has all."""
_SLACK_S = 60.0
"""Seconds beyond the rewards' own time-outs for transport, decoding and flow."""

Process = tuple[int, ray.actor.ActorHandle]
"""Place in the pool, which a replacement inherits, and the handle of its process."""


@dataclass(frozen=True)
class Answer:
    """Holds a reward process's scores of one group."""

    scores: Mapping[str, Sequence[Sequence[float]]]
    failures: dict[str, str]
    """Reason for the last missing score, by reward."""
    hung: bool
    """True if a reward did not return: the process must be replaced."""


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class RewardProcess:
    """Scores groups in a process of its own. It may die at any time; another process scores its group."""

    def __init__(self, cluster: ClusterConfig, spec: ScorerSpec):
        torch.set_num_threads(cluster.threads)
        self.horizon_frames = spec.horizon_frames
        self.scorer = make_scorer(spec, "cuda" if cluster.reward_gpus else "cpu")
        self.scorer.load()

    def node(self) -> str:
        """Return Ray's id of the node that this process is on."""
        return ray.get_runtime_context().get_node_id()

    def score(self, group: Header, first: Sequence[Header]) -> Answer:
        """Score a group; `first` holds the first blocks of its video. Raises BadWindow for unreadable payloads."""
        item, *blocks = fetch([group, *first])
        for result in (item, *blocks):
            if isinstance(result, BadWindow):
                raise result
        scored = self.scorer(item, first_frames(blocks, 0, group.start, self.horizon_frames))
        return Answer(scored.group.scores, scored.failures, scored.hung)


class RewardPool:
    """Runs at most cluster.reward_actors processes, which the coordinator owns, from the first group on."""

    def __init__(self, cluster: ClusterConfig, spec: ScorerSpec, say: Callable[[str], None]):
        self.cluster, self.spec, self.say = cluster, spec, say
        self.size = cluster.reward_actors
        self.idle: asyncio.PriorityQueue[Process] = asyncio.PriorityQueue()
        """Idle processes; those with the lowest place, which have a node already, are used first."""
        self.staying: set[int] = set()
        """Places of the processes that stay in the pool."""
        self.leaving: set[int] = set()
        """Places of busy processes that end after their current group."""
        self.nodes: dict[int, str] = {}
        """Ray's node id of each process, by place."""
        self.tracers = [Tracer(f"reward {place}") for place in range(cluster.reward_actors)]
        self.reported: set[tuple[str, str]] = set()
        """Failures already shown on the terminal, as (reward, reason)."""

    def fit(self, actors: int, nodes: Collection[str]) -> None:
        """Resize the pool to at most one process per rollout actor: more are never busy together.

        Processes outside `nodes`, the rollout actors' nodes, end first, so that their nodes can be given back. A busy
        process ends after its current group.
        """
        self.size = min(self.cluster.reward_actors, actors)
        if not self.staying:  # processes start with the first group
            return
        while self.leaving and len(self.staying) < self.size:
            self.staying.add(self.leaving.pop())
        self._start()
        surplus = len(self.staying) - self.size
        ending = sorted(self.staying, key=lambda place: (self.nodes.get(place) in nodes, -place))[:surplus]
        self.staying -= set(ending)
        self.leaving |= set(ending)
        for place, process in [self.idle.get_nowait() for _ in range(self.idle.qsize())]:
            self._return(place, process)

    async def score(self, group: Header, first: Sequence[Header]) -> Header:
        """Return `group` with its scores; `first` holds the first blocks of its video, payloads by reference.

        Scores are NaN where every process was lost. Raises BadWindow for a group that cannot be opened.
        """
        names = list(self.spec.reward.weights) if group.role == GRPO else self.spec.metrics
        members, frames = group.shape("latents")[:2]
        windows = frames // self.spec.reward.window_frames
        # The rewards run one after another; those of scope group run window by window.
        timeout_s = len(names) * windows * self.spec.reward.timeout_s + _SLACK_S
        for _ in range(_LOST_IN_A_ROW):
            answer = await self._try(group, first, timeout_s)
            if answer is None:
                continue
            for name, why in answer.failures.items():
                count = sum(reward == name for reward, _ in self.reported)
                if (name, why) not in self.reported and count < _MOST_REPORTED:
                    self.reported.add((name, why))
                    self.say(f"reward {name}: {why}; the scores count as missing")
            return replace(group, scores=answer.scores)
        self.say(
            f"{_LOST_IN_A_ROW} reward processes in a row were lost on window {group.index} of rollout {group.rollout}"
        )
        return replace(group, scores={name: [[math.nan] * windows] * members for name in names})

    def drain_spans(self) -> list[Span]:
        """Return the processes' spans since the last call, transport included."""
        return [span for tracer in self.tracers for span in tracer.drain()]

    async def _try(self, group: Header, first: Sequence[Header], timeout_s: float) -> Answer | None:
        if not self.staying:
            self._start()
        place, process = await self.idle.get()
        used_up = True
        try:
            async with asyncio.timeout(self.cluster.start_timeout_s):
                self.nodes[place] = await process.node.remote()
            self.tracers[place].until_next("score")
            async with asyncio.timeout(timeout_s):
                answer = await process.score.remote(group, first)
            used_up = answer.hung
            return answer
        except asyncio.CancelledError:  # the stage has ended, and with it this pool: start no replacement
            self.staying.discard(place)
            self.leaving.add(place)
            raise
        except TimeoutError:
            self.say("a reward process did not start, or gave no scores, in time; another takes its place")
            return None
        except RayTaskError as error:  # a bug: the process itself catches exceptions of rewards
            if isinstance(error.cause, BadWindow):
                used_up = False
                raise error.cause from None
            if (fault := gpu_fault(error.cause)) is not None:
                self.say(f"a reward process has lost its GPU ({fault}); another takes its place")
                return None
            why = f"{type(error.cause).__name__}: {error.cause}"
            raise RunFailed(
                f"scoring window {group.index} of rollout {group.rollout} failed ({why}); checkpoints are good"
            ) from error
        except RayError as error:
            # The last line of a constructor's traceback is the error itself.
            reason = (str(error).strip().splitlines() or [""])[-1].strip()
            self.say(f"a reward process was lost ({type(error).__name__}: {reason}); another takes its place")
            return None
        finally:
            self.tracers[place].settle()
            if used_up and place not in self.leaving:
                ray.kill(process)
                self.nodes.pop(place, None)
                process = self._new()
            self._return(place, process)

    def _start(self) -> None:
        """Start processes until the pool has its size."""
        while len(self.staying) < self.size:
            place = next(place for place in count() if place not in self.staying)
            self.staying.add(place)
            self.idle.put_nowait((place, self._new()))

    def _return(self, place: int, process: ray.actor.ActorHandle) -> None:
        """Return the process to the idle queue, or end it if it is leaving."""
        if place in self.leaving:
            self.leaving.remove(place)
            self.nodes.pop(place, None)
            ray.kill(process)
        else:
            self.idle.put_nowait((place, process))

    def _new(self) -> ray.actor.ActorHandle:
        return RewardProcess.options(**placement.options(placement.reward(self.cluster))).remote(
            self.cluster, self.spec
        )
