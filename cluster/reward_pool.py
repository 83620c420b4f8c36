"""The reward pool on Ray: processes that decode and score groups, replaced when they are lost or hang."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from cluster.config import Config
from cluster.packing import PackedTensors, pack_tensors, unpack_tensors
from cluster.parcels import Parcel, unwrap
from cluster.scoring import GroupScorer
from models.rollout import GRPO, Group

_LOST_IN_A_ROW = 3
"""Processes that one group may lose: it is then scored by nobody, which counts as a failure of its rewards."""
_SLACK_S = 60.0
"""Beside the rewards' own time-outs: the way there, decoding and flow."""

_log = logging.getLogger(__name__)

Scores = dict[str, list[list[float]]]


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class RewardProcess:
    """One process of the reward pool. It may die at any time; its group is scored by another."""

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self.scorer = GroupScorer(config)

    def score(self, parcel: Parcel, reference: PackedTensors | None) -> tuple[Scores, bool]:
        """A group's scores, and whether a reward hangs: then this process is not to be used again."""
        first = None if reference is None else unpack_tensors(reference)["reference"]
        scored = self.scorer(unwrap(parcel), first)
        return dict(scored.group.scores), scored.hung


class RewardPool:
    """Processes that the coordinator owns, as many as cluster.reward_actors; started when the first group comes."""

    def __init__(self, config: Config, say: Callable[[str], None]):
        self.config, self.say = config, say
        self.idle: asyncio.Queue[Any] | None = None

    async def score(self, group: Group, parcel: Parcel, reference: Tensor | None) -> Group:
        """`group` with its scores; `parcel` holds the same group, and `reference` [R C H W] how its video began.

        Scores are NaN where no process could give them.
        """
        packed = None if reference is None else pack_tensors({"reference": reference})
        for _ in range(_LOST_IN_A_ROW):
            scores = await self._try(parcel, packed)
            if scores is not None:
                return replace(group, scores=scores)
        self.say(
            f"{_LOST_IN_A_ROW} reward processes in a row were lost on window {group.index} of rollout {group.rollout}"
        )
        return replace(group, scores=self._nothing(group))

    async def _try(self, parcel: Parcel, reference: PackedTensors | None) -> Scores | None:
        if self.idle is None:
            self.idle = asyncio.Queue()
            for _ in range(self.config.cluster.reward_actors):
                self.idle.put_nowait(self._new())
        process = await self.idle.get()
        used_up = True
        try:
            async with asyncio.timeout(self.config.cluster.start_timeout_s):
                await process.__ray_ready__.remote()
            async with asyncio.timeout(self._timeout_s()):
                scores, used_up = await process.score.remote(parcel, reference)
            return scores
        except TimeoutError:
            self.say("a reward process did not start, or gave no scores, in time; another takes its place")
            return None
        except RayTaskError:
            raise  # the scorer's own exception is a mistake of ours: rewards' are caught in there
        except RayError as error:
            self.say(f"a reward process was lost ({type(error).__name__}); another takes its place")
            return None
        finally:
            if used_up:
                ray.kill(process)
                process = self._new()
            self.idle.put_nowait(process)

    def _new(self) -> ray.actor.ActorHandle:
        gpus = self.config.cluster.reward_gpus
        options = {"num_gpus": gpus} if gpus else {}
        return RewardProcess.options(**options).remote(self.config)

    def _timeout_s(self) -> float:
        """The rewards run one after another, each for reward.timeout_s at most."""
        rewards = max(len(self.config.reward.terms), len(self.config.sentinel.metrics))
        return rewards * self.config.reward.timeout_s + _SLACK_S

    def _nothing(self, group: Group) -> Scores:
        names = list(self.config.reward.terms) if group.role == GRPO else self.config.sentinel.metrics
        windows = group.latents.shape[1] // self.config.reward.window_frames
        return {name: [[math.nan] * windows for _ in range(group.members)] for name in names}
