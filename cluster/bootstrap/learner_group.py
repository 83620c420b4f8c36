"""Start the learner ranks by Ray Train, without the helper processes that serve features no run uses.

Train starts its processes one after the other, and each of these took two seconds of a core before the first rank. The
controller imports this module only, and not torch: what needs torch runs in the ranks.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train import Result
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_SLACK_S = 60
"""Seconds by which torch times out before Ray: its message names the missing rank."""
_OURS, _TORCH = "cluster.bootstrap.process_group", "ray.train.torch.config"
"""Modules of the functions that run in the ranks."""


class LearnerTrainer(DataParallelTrainer):
    """Runs Ray Train on a fixed number of ranks whose places are their placement group, without data sets.

    Left out: the manager of data sets; the broker of Ray Data and Train, whose requests the placement group repeats;
    and the cleaner of the places of a lost controller, which needs a dashboard: see `LearnerPlaces`.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused = DatasetsCallback, PlacementGroupCleanerCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        policy = _PlacesAlone(self.scaling_config)
        return super()._initialize_and_run_controller(**parts | {"scaling_policy": policy})


class _PlacesAlone(FixedScalingPolicy):
    """Keeps the number of ranks, and requests nothing beside their placement group."""

    def _send_resource_request(self) -> None:
        """Do nothing, where Train starts a process that asks Ray's autoscaler for the same places."""

    _maybe_send_resource_request = _cancel_resource_request = _send_resource_request


@dataclass
class NodeAddressConfig(BackendConfig):
    """Configures Ray Train with the group of `process_group`."""

    backend: str
    """Name of torch's backend: nccl or gloo."""
    timeout_s: int
    """Seconds that a collective may take."""

    @property
    def backend_cls(self) -> type["_NodeAddressBackend"]:
        """Return the class with which Train sets up the ranks."""
        return _NodeAddressBackend

    @property
    def train_func_context(self) -> type:
        """Return the context of a rank's loop, which sets its device."""
        return import_module(_TORCH).TorchConfigContextManager


class _NodeAddressBackend(Backend):
    """Forms the group itself; in Ray's own backend torch opens the store."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: NodeAddressConfig) -> None:
        """Form the group. Raises a rank's exception, and RayActorError for a lost rank."""
        worker_group.execute(call_in_rank, _TORCH, "_set_torch_distributed_env_vars")
        size, timeout = len(worker_group), timedelta(seconds=backend_config.timeout_s)
        host, port, listening = worker_group.execute_single(0, call_in_rank, _OURS, "listen")
        meeting = (host, port, size, timeout, backend_config.backend)
        sockets = [listening] + [None] * (size - 1)
        joined = [
            worker_group.execute_single_async(i, call_in_rank, _OURS, "join_group", i, sockets[i], *meeting)
            for i in range(size)
        ]
        ray.get(joined, timeout=backend_config.timeout_s + _SLACK_S)

    def on_shutdown(self, worker_group: Any, backend_config: NodeAddressConfig) -> None:
        """End the group, and free the memory of GPUs; a rank that does not answer is killed next."""
        ending = worker_group.execute_async(call_in_rank, _TORCH, "_shutdown_torch", len(worker_group) > 1)
        with suppress(GetTimeoutError):
            ray.get(ending, timeout=_SLACK_S)


def call_in_rank(module: str, name: str, *arguments: Any) -> Any:
    """Call a function by its name, so that the process that sends the call need not import its module."""
    return getattr(import_module(module), name)(*arguments)
