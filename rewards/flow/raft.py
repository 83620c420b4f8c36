"""Compute optical flow by torchvision's RAFT on a GPU. A CPU takes half a minute per pair at 480 x 832."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torchvision.models import optical_flow

from models.checkpoints.weight_files import shape_misfit
from models.errors import ConfigError
from rewards.flow.optical_flow import Flow, grey_frames, squared_gradient

_NETWORKS = {
    "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
    "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
}
_STEP, _SMALLEST = 8, 128
"""RAFT takes sides that are multiples of 8 and at least 128."""
_PAIRS = 8
"""Pairs computed together: at 480 x 832 each holds 200 MB of correlations."""


class RaftFlow:
    """Computes flow by RAFT with weights from a file; nothing is downloaded."""

    def __init__(self, weights: str | None, size: str, upsample: int, device: torch.device):
        """Load the network of `size` (large or small). Raises ConfigError unless `weights` is its complete file.

        It goes to `device` with the first call: a command that only checks its configuration opens no GPU.
        """
        build, published = _NETWORKS[size]
        self._network = build(weights=None).eval()
        self._network.load_state_dict(_read(weights, published.url.rpartition("/")[2], self._network.state_dict()))
        self._upsample, self._device = upsample, device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Flow:
        """Compute the flow of `pixels` [T 3 H W] in [0, 1], in pixels of the enlarged frame."""
        self._network.to(self._device)
        height, width = (side * self._upsample for side in pixels.shape[-2:])
        padded = [max(_SMALLEST, -(-side // _STEP) * _STEP) for side in (height, width)]
        frames = functional.interpolate(pixels.to(self._device), padded, mode="bilinear", align_corners=False)
        frames = 2 * frames - 1
        scale = frames.new_tensor([width / padded[1], height / padded[0]])[:, None, None]
        directions = []
        for first, second in ((frames[:-1], frames[1:]), (frames[1:], frames[:-1])):
            flows = torch.zeros(0, 2, height, width)
            if len(first):
                pairs = zip(first.split(_PAIRS), second.split(_PAIRS), strict=True)
                flows = torch.cat([self._network(a, b)[-1] for a, b in pairs])
                flows = functional.interpolate(flows, (height, width), mode="bilinear", align_corners=False)
                flows = (flows * scale).cpu()
            directions.append(flows)
        grey = torch.from_numpy(grey_frames(pixels, self._upsample)[:-1])
        return Flow.of(*directions, squared_gradient(grey))


def _read(path: str | None, published: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights that fit `state` from a file. Raises ConfigError, naming torchvision's file `published`."""
    fix = f"give torchvision's {published} (or the same in safetensors)"
    if path is None or not Path(path).is_file():
        raise ConfigError("reward.raft_weights", path, "this file does not exist", fix)
    try:
        if path.endswith(".safetensors"):
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except (  # raised by torch.load for files of another kind
        SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, AttributeError, LookupError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        # Not torch's own words: they advise to run the code in the file.
        problem = f"this is no whole file of weights ({type(error).__name__})"
        raise ConfigError("reward.raft_weights", path, problem, fix) from error
    if difference := shape_misfit({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes):
        raise ConfigError(
            "reward.raft_weights", path, f"these are not the weights of this network: it {difference}", fix
        )
    return tensors
