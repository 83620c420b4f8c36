"""Which of the networks that have a name a checkpoint holds."""

from functools import cache

import torch

from models.checkpoints.formats import Checkpoint
from models.checkpoints.weight_files import Shapes
from models.network_config import CONFIGS
from models.wan.network import Wan


@cache
def network_shapes(name: str) -> Shapes:
    """The tensors of a network of `CONFIGS`, by name in diffusers; nothing is allocated."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in Wan(CONFIGS[name]).state_dict().items()}


def recognise_network(checkpoint: Checkpoint) -> str | None:
    """The name of the network whose tensors a checkpoint has; None where it is none of them."""
    found = {name: stored.shape for name, stored in checkpoint.stored.items()}
    return next((name for name in CONFIGS if network_shapes(name) == found), None)
