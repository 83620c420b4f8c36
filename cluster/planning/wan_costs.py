"""What Wan costs: parameters, floating-point operations and bytes, as arithmetic on its sizes.

Nothing is allocated. An operation is a multiplication or an addition. Only the matrix products of the transformer's
blocks are counted (projections, feed-forward, attention): patches, time, text and head are below one percent of Wan,
and Self-Forcing's own arithmetic leaves them out too. A read of finished frames counts as a whole pass; ours stops at
the last layer's keys and values, 0.6 % of a block earlier.
"""

from functools import lru_cache

import torch

from models.network_config import StudentConfig, WanConfig
from models.wan.network import Wan

BYTES = {"float32": 4, "bfloat16": 2}

TRAINED_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8}
"""Of one trained parameter, all in float32: 16 with AdamW's two moments. Networks compute in a smaller copy."""

UMT5_PARAMETERS = 5_680_910_336
"""The text encoder UMT5-XXL."""

VAE_PARAMETERS = 126_892_531
"""Wan2.1's VAE (diffusers' AutoencoderKLWan): encoder and decoder."""

VAE_LATENT_PIXELS = 60 * 104
VAE_DECODE_FLOPS = 13_550_000_455_680
"""Decoding one latent frame of VAE_LATENT_PIXELS behind others; a video's first, one image, costs a third."""
VAE_ENCODE_IMAGE_FLOPS = 2_718_293_360_640
"""Encoding one image to a latent frame of VAE_LATENT_PIXELS."""


@lru_cache
def parameters(wan: WanConfig) -> int:
    """Of one network: 1,418,996,800 for Wan 1.3B. Counted on the network itself, on torch's "meta" device."""
    with torch.device("meta"):
        return sum(p.numel() for p in Wan(wan).parameters())


@lru_cache
def block_parameters(wan: WanConfig) -> int:
    """Of one transformer block: what FSDP2 makes whole at a time."""
    with torch.device("meta"):
        return sum(p.numel() for p in Wan(wan).blocks[0].parameters())


def adapter_parameters(wan: WanConfig, rank: int) -> int:
    """Of LoRA adapters of `rank` on all matrices of the blocks: two attentions of four, and the feed-forward."""
    return wan.num_layers * rank * (8 * 2 * wan.dim + 2 * (wan.dim + wan.ffn_dim))


# -- operations ------------------------------------------------------------------------------------------------------


def pass_flops(wan: WanConfig, queries: int, keys: float, layers: int | None = None) -> float:
    """One forward pass of `queries` tokens, each of which sees `keys` tokens (their mean) and the text.

    `layers` counts only so many of the layers.
    """
    matrices = 6 * wan.dim**2 + 2 * wan.dim * wan.ffn_dim  # the text's own keys and values are made once per prompt
    attention = 2 * wan.dim * (keys + wan.text_len)
    return 2.0 * (wan.num_layers if layers is None else layers) * queries * (matrices + attention)


def frame_tokens(student: StudentConfig) -> int:
    """Tokens of one latent frame."""
    return student.wan.tokens_per_frame(student.height, student.width)


def block_pass_flops(student: StudentConfig, seen_frames: int) -> float:
    """One pass of a block that sees `seen_frames` frames, itself included: 40.4e12 for Wan 1.3B and 21 frames."""
    tokens = frame_tokens(student)
    return pass_flops(student.wan, student.block_frames * tokens, seen_frames * tokens)


def read_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Reading `frames` finished frames into the cache, behind `before` others: one pass, each block its window."""
    block = student.block_frames
    return sum(
        block_pass_flops(student, min(first + block, student.attention_frames))
        for first in range(before, before + frames, block)
    )


def rollout_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Making `frames` frames of one video behind `before` others: every denoising step, then the read."""
    return (len(student.timesteps) + 1) * read_flops(student, frames, before)


def score_flops(wan: WanConfig, student: StudentConfig, frames: int) -> float:
    """One pass of a bidirectional network (teacher, critic) over `frames` frames."""
    tokens = frames * wan.tokens_per_frame(student.height, student.width)
    return pass_flops(wan, tokens, tokens)


def gradient_passes(checkpointed: bool) -> int:
    """What a pass with gradient costs, in forward passes: two more going back, one more where blocks are made again."""
    return 4 if checkpointed else 3


def masked_flops(student: StudentConfig, frames: int, history: int) -> tuple[float, float]:
    """The student's x0 of a window of `frames` behind `history` frames, in one masked pass: (clean, noisy) forward.

    Clean frames are read without gradient, the window's last block excepted; every noisy block sees its whole window.
    """
    block = student.block_frames
    clean = read_flops(student, history + frames - block)
    return clean, read_flops(student, frames, history)


def regenerated_flops(student: StudentConfig, frames: int, history: int, gradient: int) -> float:
    """The window made again block by block, its last denoising step as dear as `gradient` passes; history not read."""
    others = len(student.timesteps) - 1 + 1  # the other denoising steps, and the read into the cache
    return (others + gradient) * read_flops(student, frames, history)


def replay_flops(student: StudentConfig, frames: int, history: int, replay: str, gradient: int) -> float:
    """The current student's x0 of a window, by `dmd.replay`; the pass with gradient costs `gradient` (1: none)."""
    if replay == "blockwise":
        return read_flops(student, history) + regenerated_flops(student, frames, history, gradient)
    clean, noisy = masked_flops(student, frames, history)
    return clean + gradient * noisy


def decode_flops(student: StudentConfig, frames: int) -> float:
    """Decoding `frames` latent frames by Wan's VAE, behind others."""
    return frames * VAE_DECODE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS


def image_latent_flops(student: StudentConfig, context: int) -> float:
    """The image latent that opens a mid-video window: `context` frames before it decoded, the last image encoded."""
    encode = VAE_ENCODE_IMAGE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS
    return decode_flops(student, context) + encode


# -- bytes -----------------------------------------------------------------------------------------------------------


def kv_bytes(wan: WanConfig, tokens: int, element: int = 2) -> int:
    """Keys and values of all layers for `tokens` tokens: 287.5e6 for a frame of Wan 1.3B in bfloat16."""
    return 2 * wan.num_layers * wan.dim * tokens * element


def cache_bytes(student: StudentConfig, frames: int, element: int = 2) -> int:
    """Keys and values of `frames` latent frames."""
    return kv_bytes(student.wan, frames * frame_tokens(student), element)


def latent_bytes(student: StudentConfig, frames: int, element: int = 2) -> int:
    """`frames` latent frames of one video."""
    channels, height, width = student.frame_shape
    return frames * channels * height * width * element


def working_bytes(wan: WanConfig, tokens: int, element: int) -> int:
    """What one block holds at work without gradient: its input and its widest product, gates in float32."""
    return tokens * (wan.dim * (4 * element + 2 * 4) + 2 * wan.ffn_dim * element)


def activation_bytes(wan: WanConfig, tokens: int, element: int, checkpointed: bool) -> int:
    """What a pass with gradient over `tokens` tokens keeps until it goes back.

    Checkpointed: the input of every block, and one block's own. Else every block's own: what `Block.forward` saves,
    with gates and norms in float32. Masks, text and what is kept once per frame are left out.
    """
    inside = tokens * (wan.dim * (10 * element + 12 * 4) + 2 * wan.ffn_dim * element)
    if not checkpointed:
        return wan.num_layers * inside
    return wan.num_layers * tokens * wan.dim * element + inside
