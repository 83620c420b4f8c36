"""The reward pool on Ray: processes that decode and score groups, replaced when they are lost or hang."""

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

_LOST_IN_A_ROW = 3
"""Processes that one group may lose: it is then scored by nobody, which counts as a failure of its rewards."""
_TOLD_AT_MOST = 20
"""Of one reward: reasons that differ by a number each time would fill the terminal; the log of the process has all."""
_SLACK_S = 60.0
"""Beside the rewards' own time-outs: the way there, decoding and flow."""

Process = tuple[int, ray.actor.ActorHandle]
"""Its place in the pool, which its successors inherit, and the process there now."""


@dataclass(frozen=True)
class Answer:
    """What a reward process says of a group."""

    scores: Mapping[str, Sequence[Sequence[float]]]
    failures: dict[str, str]
    """Why a reward's last missing score is missing."""
    hung: bool
    """A reward did not come back: the process is not to be used again."""


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class RewardProcess:
    """One process of the reward pool. It may die at any time; its group is scored by another."""

    def __init__(self, cluster: ClusterConfig, spec: ScorerSpec):
        torch.set_num_threads(cluster.threads)
        self.horizon_frames = spec.horizon_frames
        self.scorer = make_scorer(spec, "cuda" if cluster.reward_gpus else "cpu")

    def node(self) -> str:
        """Return Ray's id of the node that this process is on."""
        return ray.get_runtime_context().get_node_id()

    def score(self, group: Header, first: Sequence[Header]) -> Answer:
        """Score a group; `first` are the first blocks of its video. Raises BadWindow where one cannot be opened."""
        item, *blocks = fetch([group, *first])
        for opened in (item, *blocks):
            if isinstance(opened, BadWindow):
                raise opened
        scored = self.scorer(item, first_frames(blocks, 0, group.start, self.horizon_frames))
        return Answer(scored.group.scores, scored.failures, scored.hung)


class RewardPool:
    """Processes that the coordinator owns, cluster.reward_actors at most; started when the first group comes."""

    def __init__(self, cluster: ClusterConfig, spec: ScorerSpec, say: Callable[[str], None]):
        self.cluster, self.spec, self.say = cluster, spec, say
        self.wanted = cluster.reward_actors
        self.idle: asyncio.PriorityQueue[Process] = asyncio.PriorityQueue()
        """The first place comes first: who may still wait for a node is asked when nobody else is left."""
        self.staying: set[int] = set()
        """Places of the processes that there are, without those of `leaving`."""
        self.leaving: set[int] = set()
        """Places whose process is at work and not wanted any more."""
        self.nodes: dict[int, str] = {}
        """By place whose process is there."""
        self.tracers = [Tracer(f"reward {place}") for place in range(cluster.reward_actors)]
        self.told: set[tuple[str, str]] = set()
        """Failures that the terminal has heard of: a reward may fail in the same way for every group."""

    def fit(self, actors: int, nodes: Collection[str]) -> None:
        """Have as many processes as rollout actors: more are never busy together.

        Who is on none of `nodes`, those of the rollout actors, leaves before the others, so that its node can be given
        back; who is at work leaves when it has its scores.
        """
        self.wanted = min(self.cluster.reward_actors, actors)
        if not self.staying:  # nobody has been started yet
            return
        while self.leaving and len(self.staying) < self.wanted:
            self.staying.add(self.leaving.pop())
        self._start()
        surplus = len(self.staying) - self.wanted
        going = sorted(self.staying, key=lambda place: (self.nodes.get(place) in nodes, -place))[:surplus]
        self.staying -= set(going)
        self.leaving |= set(going)
        for place, process in [self.idle.get_nowait() for _ in range(self.idle.qsize())]:
            self._return(place, process)

    async def score(self, group: Header, first: Sequence[Header]) -> Header:
        """Return `group` with its scores; `first` are the first blocks of its video. Payloads are references.

        Scores are NaN where no process could give them. Raises BadWindow for a group that cannot be opened.
        """
        names = list(self.spec.reward.weights) if group.role == GRPO else self.spec.metrics
        members, frames = group.shape("latents")[:2]
        windows = frames // self.spec.reward.window_frames
        # The rewards run one after another, window by window those of a group.
        timeout_s = len(names) * windows * self.spec.reward.timeout_s + _SLACK_S
        for _ in range(_LOST_IN_A_ROW):
            answer = await self._try(group, first, timeout_s)
            if answer is None:
                continue
            for name, why in answer.failures.items():
                told = sum(other == name for other, _ in self.told)
                if (name, why) not in self.told and told < _TOLD_AT_MOST:
                    self.told.add((name, why))
                    self.say(f"reward {name}: {why}; the scores count as missing")
            return replace(group, scores=answer.scores)
        self.say(
            f"{_LOST_IN_A_ROW} reward processes in a row were lost on window {group.index} of rollout {group.rollout}"
        )
        return replace(group, scores={name: [[math.nan] * windows] * members for name in names})

    def drain_spans(self) -> list[Span]:
        """Return the processes' spans since the last call, with the way there and back."""
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
        except asyncio.CancelledError:  # the stage is over, and with it this pool: nobody is asked for in its place
            self.staying.discard(place)
            self.leaving.add(place)
            raise
        except TimeoutError:
            self.say("a reward process did not start, or gave no scores, in time; another takes its place")
            return None
        except RayTaskError as error:  # a mistake of ours: what rewards raise is caught in there
            if isinstance(error.cause, BadWindow):
                used_up = False
                raise error.cause from None
            why = f"{type(error.cause).__name__}: {error.cause}"
            raise RunFailed(
                f"scoring window {group.index} of rollout {group.rollout} failed ({why}); checkpoints are good"
            ) from error
        except RayError as error:
            said = (str(error).strip().splitlines() or [""])[-1].strip()  # of a constructor's error, the error itself
            self.say(f"a reward process was lost ({type(error).__name__}: {said}); another takes its place")
            return None
        finally:
            self.tracers[place].settle()
            if used_up and place not in self.leaving:
                ray.kill(process)
                self.nodes.pop(place, None)
                process = self._new()
            self._return(place, process)

    def _start(self) -> None:
        """Ask for those that are missing."""
        while len(self.staying) < self.wanted:
            place = next(place for place in count() if place not in self.staying)
            self.staying.add(place)
            self.idle.put_nowait((place, self._new()))

    def _return(self, place: int, process: ray.actor.ActorHandle) -> None:
        """Let the next group have the process, or end it where it is to leave."""
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
