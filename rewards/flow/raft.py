"""Optical flow by torchvision's RAFT. For a GPU: a pair at 480 x 832 takes a CPU half a minute."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torchvision.models import optical_flow

from models.checkpoints.weight_files import shape_misfit
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
    """RAFT with weights from a file; nothing is downloaded."""

    def __init__(self, weights: str | None, size: str, upsample: int, device: torch.device):
        """Raises ValueError where `weights` is no whole file of the weights of that `size` (large or small)."""
        build, published = _NETWORKS[size]
        self._network = build(weights=None).eval().to(device)
        wanted = f"torchvision's {published.url.rpartition('/')[2]}"
        self._network.load_state_dict(_read(weights, wanted, self._network.state_dict()))
        self._upsample, self._device = upsample, device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Flow:
        """Flow of `pixels` [T 3 H W] in [0, 1], in pixels of the enlarged frame."""
        height, width = (side * self._upsample for side in pixels.shape[-2:])
        fitting = [max(_SMALLEST, -(-side // _STEP) * _STEP) for side in (height, width)]
        frames = functional.interpolate(pixels.to(self._device), fitting, mode="bilinear", align_corners=False)
        frames = 2 * frames - 1

        def flow(first: Tensor, second: Tensor) -> Tensor:
            if not len(first):
                return torch.zeros(0, 2, height, width)
            pairs = zip(first.split(_PAIRS), second.split(_PAIRS), strict=True)
            found = [self._network(a, b)[-1] for a, b in pairs]
            found = functional.interpolate(torch.cat(found), (height, width), mode="bilinear", align_corners=False)
            return (found * found.new_tensor([width / fitting[1], height / fitting[0]])[:, None, None]).cpu()

        grey = torch.from_numpy(grey_frames(pixels, self._upsample)[:-1])
        return Flow.of(flow(frames[:-1], frames[1:]), flow(frames[1:], frames[:-1]), squared_gradient(grey))


def _read(path: str | None, wanted: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if path is None or not Path(path).is_file():
        raise ValueError(f"reward.raft_weights={path} does not exist; give {wanted} (or the same in safetensors)")
    try:
        if path.endswith(".safetensors"):
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except (  # what torch.load raises for files that are none of its own
        SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, AttributeError, LookupError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        # Not torch's own words: they advise to read the file with its code.
        why = type(error).__name__
        raise ValueError(f"reward.raft_weights={path} is no whole file of weights ({why}); give {wanted}") from error
    if difference := shape_misfit({name: tuple(tensor.shape) for name, tensor in state.items()}, found):
        raise ValueError(f"reward.raft_weights={path} does not fit: it {difference}; give {wanted}")
    return tensors
