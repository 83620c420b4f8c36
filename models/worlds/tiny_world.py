"""Render a procedural video world, small enough for training on two CPU cores and exact to judge.

One anti-aliased sprite moves at constant speed over a lit, textured wall and bounces off the edges. A prompt names
colour, shape, speed and wall: "a red disc drifts slowly over a warm wall". The wall's light (level and gradient) varies
from video to video and is *not* in the prompt: a student must carry it from its own frames, so exposure drift arises by
itself. The world's clock is 16 video frames per second; a teacher horizon is 12 frames, 0.75 s.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.network_config import TINY
from models.worlds.tiny_prompts import COLOURS, PROMPTS, SPEEDS, WALLS, TinyScene, scene_of

SIZE = 12
"""Rows and columns of a frame, in pixels."""
FPS = 16
"""Video frames per second."""
HORIZON = 12
"""Frames of one teacher horizon: 0.75 s."""

RADIUS = 2.0
"""Radius of a disc; a square has half this side and the same area, in pixels."""
LEVEL = (0.55, 1.0)
"""Range of a wall's light level."""
GRADIENT = 0.25
"""Largest change of light from the middle of a wall to its edge."""


_ROWS, _COLUMNS = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
"""Row and column of every pixel's centre, each [H W]."""
WALL_RELIEF = 1 + 0.10 * (1 - 2 * (((_ROWS / 2).floor() + (_COLUMNS / 2).floor()) % 2))
"""Fixed relief [H W] of all walls, around 1: a checkerboard of two-pixel tiles."""
LIGHT_BASIS = torch.stack([torch.ones(SIZE, SIZE), 2 * _ROWS / SIZE - 1, 2 * _COLUMNS / SIZE - 1])
"""[3 H W]: level, gradients down and right (1 at the edges). A wall's light is their sum."""


def coverage(shape: str, position: Tensor) -> Tensor:
    """Return the share [... H W] of each pixel covered by a sprite centred at `position` [... 2] (row, column)."""
    down, right = _ROWS - position[..., 0, None, None], _COLUMNS - position[..., 1, None, None]
    if shape == "disc":
        return (RADIUS + 0.5 - (down**2 + right**2).sqrt()).clamp(0, 1)
    half = RADIUS * torch.pi**0.5 / 2
    return (half + 0.5 - down.abs()).clamp(0, 1) * (half + 0.5 - right.abs()).clamp(0, 1)


def render(scene: TinyScene, position: Tensor, light: Tensor) -> Tensor:
    """Render frames [... 3 H W] in [0, 1] of a sprite at `position` [... 2] on a wall lit by `light` [... 3]."""
    cover = coverage(scene.shape, position).unsqueeze(-3)
    level = torch.einsum("...k,khw->...hw", light, LIGHT_BASIS) * WALL_RELIEF
    wall = torch.tensor(WALLS[scene.wall])[:, None, None] * level.unsqueeze(-3)
    sprite = torch.tensor(COLOURS[scene.colour])[:, None, None]
    return (cover * sprite + (1 - cover) * wall).clamp(0, 1)


def sample_video(prompt: str, frames: int, generator: torch.Generator) -> Tensor:
    """Draw a real video of the world, [F 3 H W] in [0, 1], with random light, start and direction."""
    scene = scene_of(prompt)
    u = torch.rand(6, generator=generator)
    angle = 2 * torch.pi * u[0]
    light = torch.stack([LEVEL[0] + (LEVEL[1] - LEVEL[0]) * u[1], GRADIENT * (2 * u[2] - 1), GRADIENT * (2 * u[3] - 1)])
    light[1:] *= 0.5  # level and both gradients together stay inside what a frame can show
    velocity = SPEEDS[scene.speed] * torch.stack([angle.sin(), angle.cos()])
    low, high = RADIUS, SIZE - RADIUS
    start = low + (high - low) * u[4:]
    steps = torch.arange(frames)[:, None]
    # Bouncing is a triangle wave: unfold the walls, move straight, fold back.
    unfolded = (start - low + velocity * steps) % (2 * (high - low))
    position = low + (high - low) - (unfolded - (high - low)).abs()
    return render(scene, position, light.expand(frames, 3))


def to_latents(video: Tensor) -> Tensor:
    """Map pixels in [0, 1] to latents of about unit variance. The world needs no VAE."""
    return (video - 0.4) / 0.25


def to_pixels(latents: Tensor) -> Tensor:
    """Map latents to pixels, clamped to [0, 1]."""
    return (latents * 0.25 + 0.4).clamp(0, 1)


_WORDS = sorted({word for prompt in PROMPTS for word in prompt.split()})
TEXT_LENGTH, TEXT_DIM = TINY.text_len, TINY.text_dim


class TinyText:
    """Embeds prompts of the tiny world without a network: one fixed vector per word."""

    identity = "tiny"

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings [B S D], zero rows behind the last word; "" is the unconditional prompt.

        Raises ConfigError for a prompt of another world.
        """
        vectors = torch.eye(TEXT_DIM) * TEXT_DIM**0.5
        out = torch.zeros(len(prompts), TEXT_LENGTH, TEXT_DIM)
        for row, prompt in zip(out, prompts, strict=True):
            if prompt:
                scene_of(prompt)
            for i, word in enumerate(prompt.split()):
                row[i] = vectors[_WORDS.index(word)]
        return out

    def prepare(self, prompts: Sequence[str]) -> None:
        """Reject a prompt of another world (ConfigError)."""
        self(prompts)

    def truncated_tokens(self, prompt: str) -> int:
        """Return 0, the tokens of `prompt` beyond the longest text: this world's are short."""
        return 0


encode_text = TinyText()
