"""Train a network: optimizer, running average, published copy, and its part of checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.lora import MergedTensors
from learner.optimizer import Optimizer, micro_batches, trainable_parameters
from learner.parallel import collectives
from learner.parallel.host_memory import HostMemory
from learner.parallel.shard_files import ShardFiles
from learner.parallel.sharding import full_layers, local_shards
from models.wan.network import Wan


class Ema:
    """Averages the trainable weights exponentially, sharded over the ranks as they are.

    The average is evaluated and shipped; actors roll out the raw weights.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.averages: dict[str, Tensor] = {n: p.detach().clone() for n, p in trainable_parameters(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Set average <- decay * average + (1 - decay) * weights."""
        weights = local_shards(trainable_parameters(module).values())
        torch._foreach_lerp_(local_shards(self.averages.values()), weights, 1 - self.decay)

    @torch.no_grad()
    def restart(self, module: nn.Module) -> None:
        """Set the average to `module`'s weights."""
        torch._foreach_copy_(local_shards(self.averages.values()), local_shards(trainable_parameters(module).values()))


class FlatCopy:
    """Holds one copy of a network's full tensors on rank 0, in one piece of memory that every version reuses."""

    def __init__(self, like: Mapping[str, Tensor], dtype: torch.dtype):
        """Reserve memory for tensors with the names and shapes of `like`, in `dtype`."""
        self.dtype, self.on_gpu = dtype, any(tensor.is_cuda for tensor in like.values())
        self.memory = HostMemory()  # kept: without it the tensors would not be pinned
        self.tensors = {} if collectives.rank() > 0 else self.memory.lay(like, dtype)

    @torch.no_grad()
    def of(self, tensors: Mapping[str, Tensor], lora_scale: float = 0.0) -> dict[str, Tensor]:
        """Copy full tensors to the CPU of rank 0, adapters merged; an empty dict elsewhere (a collective).

        One block at a time is full on a device. Adapters are merged as they are stored, before they are rounded.
        Overwrites the previous call's values.
        """
        for part in full_layers(tensors, None if lora_scale else self.dtype):
            if self.tensors:
                for name, full in MergedTensors(part, lora_scale).items():
                    self.tensors[name].copy_(full, non_blocking=True)
            del part  # before the next one is gathered
        if self.tensors and self.on_gpu:
            torch.cuda.current_stream().synchronize()  # once, not for each of 825 tensors
        return self.tensors


class TrainedNetwork:
    """Bundles a network with its optimizer, its average (`ema_decay`) and a copy to publish from, in dtype `published`.

    `name` is its tensors' group in a checkpoint, `optimizer_name` its moments'. Every rank calls every method.
    """

    def __init__(
        self,
        name: str,
        network: Wan,
        optimizer: Optimizer,
        *,
        optimizer_name: str = "optimizer",
        ema_decay: float | None = None,
        published: torch.dtype | None = None,
        lora_scale: float = 0.0,
    ):
        self.name, self.network, self.optimizer, self.optimizer_name = name, network, optimizer, optimizer_name
        self.lora_scale, self.device = lora_scale, next(network.parameters()).device
        self.ema = None if ema_decay is None else Ema(network, ema_decay)
        self.copy = None if published is None else FlatCopy(MergedTensors(network.state_dict()).data, published)

    @property
    def updates(self) -> int:
        """Count the optimizer's steps."""
        return self.optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """Return the raw weights of a `published` network on rank 0, adapters merged; empty elsewhere (a collective).

        The next call overwrites the tensors: copy what must last.
        """
        return self.copy.of(self.network.state_dict(), self.lora_scale)

    def raw(self) -> MergedTensors:
        """Return the raw weights, adapters merged; the next update changes them."""
        return MergedTensors(self.network.state_dict(), self.lora_scale)

    def averaged(self) -> MergedTensors:
        """Return the averaged weights; with LoRA the adapters are averaged, then merged."""
        return MergedTensors(self.network.state_dict() | self.ema.averages, self.lora_scale)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return a checkpoint's tensors by group, on every rank its shards; the next update changes them."""
        groups = {self.name: self.network.state_dict()}
        if self.ema is not None:
            groups["ema"] = self.ema.averages
        return groups | {self.optimizer_name: self.optimizer.state()}

    def load_state(self, groups: Mapping[str, ShardFiles], updates: int) -> None:
        """Read the result of `state` after `updates` steps, on any number of ranks. Raises ValueError."""
        groups[self.name].read_into(self.network.state_dict())
        if self.ema is not None:
            groups["ema"].read_into(self.ema.averages)
        self.optimizer.load_state(groups[self.optimizer_name], updates)


@dataclass(eq=False)
class RegressionLearner:
    """Fits one network to targets that need no rollouts: the shared shape of stages `teacher` and `ode`."""

    trained: TrainedNetwork
    micro_batch: int | None
    seed: int

    @property
    def step(self) -> int:
        """Count the updates done."""
        return self.trained.updates

    def fit(self, batch_size: int, losses: Callable[[Sequence[int]], Tensor]) -> dict[str, float]:
        """Step on a batch; `losses` gives [B] for the samples at these places of the whole batch."""
        places = collectives.own_places(batch_size)
        parts = list(micro_batches(places, self.micro_batch))
        return self.trained.optimizer.step((losses(part).sum() / len(places) for part in parts), len(parts))

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Return everything a resumed run needs: tensors, on every rank its shards, and counts."""
        return self.trained.state(), {"updates": self.step}

    def load_state(self, groups: Mapping[str, ShardFiles], state: dict[str, int]) -> None:
        """Read the result of `state`, on any number of ranks. Raises ValueError."""
        self.trained.load_state(groups, state["updates"])
