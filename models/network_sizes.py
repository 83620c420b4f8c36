"""Count parameters of networks, and bytes of what sampling holds beside them, before anything is allocated."""

from functools import lru_cache

import torch

from models.network_config import StudentConfig, WanConfig
from models.wan.cpu_products import products_to_lay_out
from models.wan.network import Wan

BYTES = {"float32": 4, "bfloat16": 2}


@lru_cache
def parameters(wan: WanConfig) -> int:
    """Count those of one network: 1,418,996,800 for Wan 1.3B. The network itself is made, on torch's "meta" device."""
    with torch.device("meta"):
        return sum(p.numel() for p in Wan(wan).parameters())


@lru_cache
def block_parameters(wan: WanConfig) -> int:
    """Count the parameters of one transformer block, which FSDP2 makes whole at a time."""
    with torch.device("meta"):
        return sum(p.numel() for p in Wan(wan).blocks[0].parameters())


@lru_cache
def laid_out_bytes(wan: WanConfig, dtype: str) -> int:
    """Count the bytes that an actor's weights take once more, in the layout of products on a CPU."""
    with torch.device("meta"):
        network = Wan(wan).to(getattr(torch, dtype))
    return sum(module.weight.nbytes for module in products_to_lay_out(network))


def kv_bytes(wan: WanConfig, tokens: int, element: int = 2) -> int:
    """Count the bytes of keys and values of all layers. A frame of Wan 1.3B in bfloat16 has 287.5e6."""
    return 2 * wan.num_layers * wan.dim * tokens * element


def cache_bytes(student: StudentConfig, frames: int, element: int = 2) -> int:
    """Count the bytes of keys and values of `frames` latent frames."""
    return kv_bytes(student.wan, frames * student.wan.tokens_per_frame(student.height, student.width), element)


def latent_bytes(student: StudentConfig, frames: int, element: int = 2) -> int:
    """Count the bytes of `frames` latent frames of one video."""
    channels, height, width = student.frame_shape
    return frames * channels * height * width * element


def sampling_bytes(student: StudentConfig, videos: int, element: int) -> int:
    """Count the bytes that sampling `videos` together surely holds: weights, a `RollingCache`, and one layer at work.

    A kernel's own workspace, the codec's and fragmentation are not in it, so more is needed than this.
    """
    wan, block = student.wan, student.block_frames
    tokens = videos * block * wan.tokens_per_frame(student.height, student.width)
    seen = cache_bytes(student, student.context_frames + student.sink_frames + 2 * block, element)
    at_work = tokens * (4 * wan.dim + wan.ffn_dim) * element
    latents = (1 + 2 * len(student.timesteps)) * latent_bytes(student, block, BYTES["float32"])
    return parameters(wan) * element + videos * (seen + latents) + at_work
