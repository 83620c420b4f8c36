"""Recompute the current student's x0 of windows, with a rebuilt cache and with gradient.

The learner never receives a cache (6 GB for Wan, against 4 MB of latents). It reads the clean frames before a window
once more under its current weights; `window.burn_in_frames` further back make up for older frames in the actor's cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.parallel import collectives
from models.causal import Past, denoise_block, denoise_window, write_block
from models.flow_matching import add_noise, x0_from_velocity
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise, to_device
from models.records import Window
from models.wan.network import Wan


@dataclass(frozen=True)
class Batch:
    """Holds a batch of windows on the learner's device."""

    windows: Sequence[Window]
    text: Tensor
    """[B S text_dim]."""
    past: Past
    """The windows' contexts; one row for all windows that hold one context."""
    latents: Tensor
    """The rollout's clean window, [B K C H W]."""
    noisy: Tensor
    """The rollout's recorded inputs, [B K C H W]."""
    image_rows: Tensor
    """Rows [R] of windows from the middle of a video, which have an image latent for the teacher."""
    images: Tensor
    """[R C H W]: those image latents."""

    def with_image_latents(self, x0: Tensor) -> Tensor:
        """Put image latents in `x0` [B K C H W]: teacher and critic know first frames only as encoded images."""
        return x0.index_put((self.image_rows, torch.zeros_like(self.image_rows)), self.images.to(x0.dtype))


def collate(
    windows: Sequence[Window],
    encode_text: Callable[[Sequence[str]], Tensor],
    device: torch.device,
    history: int | None = None,
) -> Batch:
    """Stack windows; shorter contexts are filled up on the left to `history` frames (default: the longest).

    A context that is one tensor in memory, as of a group's members, becomes one row.
    """
    contexts = {id(window.context): window.context for window in windows}
    rows = {key: row for row, key in enumerate(contexts)}
    if history is None:
        history = max(map(len, contexts.values()))
    padding = tuple(history - len(context) for context in contexts.values())
    frames = [
        torch.cat([context.new_zeros(pad, *context.shape[1:]), context])
        for context, pad in zip(contexts.values(), padding, strict=True)
    ]
    # By context and not by window: a group's members are as old as each other.
    starts = {id(window.context): window.start - history for window in windows}
    past = Past(
        to_device(torch.stack(frames), device),
        padding,
        tuple(rows[id(window.context)] for window in windows),
        tuple(starts[key] for key in contexts),
    )
    image_rows = [row for row, window in enumerate(windows) if window.image is not None]
    images = torch.cat([windows[0].latents[:0], *(windows[row].image[None] for row in image_rows)])
    return Batch(
        windows=windows,
        text=to_device(encode_text([window.prompt for window in windows]), device),
        past=past,
        latents=to_device(torch.stack([window.latents for window in windows]), device),
        noisy=to_device(torch.stack([window.noisy for window in windows]), device),
        image_rows=to_device(torch.tensor(image_rows, dtype=torch.int64), device),
        images=to_device(images, device),
    )


def backward_noise(
    noising: str,
    recorded: Tensor,
    recorded_sigma: Tensor,
    latents: Tensor,
    fresh_sigma: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Initialise noise backwards (Self-Forcing++, Eq. 1): the student's inputs [B K C H W] and their levels [B].

    `recorded` are the rollout's own re-noised inputs x_t = (1 - sigma) x0 + sigma noise, whose x0 is the student's
    prediction one step earlier. `fresh` noises the rollout's final clean latents again, to a drawn student level.
    """
    if noising == "recorded":
        return recorded, recorded_sigma
    return add_noise(latents, noise, fresh_sigma), fresh_sigma


def masked_x0(
    student: Wan, config: StudentConfig, batch: Batch, x_t: Tensor, sigma: Tensor, context_gradient: bool = False
) -> Tensor:
    """Compute the current student's x0 [B K C H W] of all blocks in one masked pass; `sigma` is [B].

    With `context_gradient` it depends on the weights through the clean frames' keys and values too.
    """
    level = sigma[:, None].expand(x_t.shape[:2])
    velocity = denoise_window(
        student,
        x_t,
        1000 * level,
        student.text_keys_values(batch.text),
        batch.past,
        batch.latents[:, : -config.block_frames],
        config.block_frames,
        config.context_frames,
        context_gradient,
    )
    return x0_from_velocity(x_t, velocity, level)


def blockwise_x0(student: Wan, config: StudentConfig, batch: Batch, sigmas: Sequence[float]) -> Tensor:
    """Generate the windows again, block after block, by the current student: x0 [B K C H W]. Exact and slow.

    Every block runs all its denoising steps with the rollout's own noise, on a cache of the student's own new frames;
    x0 is taken, with gradient, at the window's recorded step. With the rollout's weights it equals `masked_x0` of the
    recorded inputs.
    """
    block, device = config.block_frames, batch.latents.device
    results = []
    for row, window in enumerate(batch.windows):
        text = student.text_keys_values(batch.text[row : row + 1])
        context = to_device(window.context[None], device)
        if collectives.size() > 1:  # sharded weights meet in every pass: else ranks with older videos would wait
            for _ in range(0, batch.past.padding[batch.past.rows[row]], block):
                student.keys_values(torch.zeros_like(batch.latents[:1, :block]), text)
        cache = KVCache(config.wan, config.context_frames, frames=window.start - context.shape[1])
        for first in range(0, context.shape[1], block):
            cache = write_block(student, context[:, first : first + block], text, cache)
        noise = BlockNoise([window.seed], (block, *config.frame_shape), device)
        predictions = []
        for index in range(window.start // block, (window.start + len(window.latents)) // block):
            x_t = noise.draw(index, 0)
            for step, sigma in enumerate(sigmas):
                level = torch.full((1, block), sigma, device=device)
                with torch.set_grad_enabled(step == window.step and torch.is_grad_enabled()):
                    x0 = x0_from_velocity(x_t, denoise_block(student, x_t, 1000 * level, text, cache), level)
                if step == window.step:
                    predictions.append(x0)
                if step + 1 < len(sigmas):
                    following = torch.full((1, block), sigmas[step + 1], device=device)
                    x_t = add_noise(x0.detach(), noise.draw(index, step + 1), following)
            cache = write_block(student, x0.detach(), text, cache)
        results.append(torch.cat(predictions, dim=1))
    return torch.cat(results)
