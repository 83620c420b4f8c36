"""List the prompts of the tiny world, and read them; without torch, which a mistake in a prompt does not wait for."""

from dataclasses import dataclass
from itertools import product

from models.errors import ConfigError

COLOURS = {
    "red": (0.90, 0.15, 0.12),
    "green": (0.15, 0.80, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "magenta": (0.90, 0.20, 0.85),
    "white": (0.97, 0.97, 0.97),
}
SHAPES = ("disc", "square")
SPEEDS = {"drifts slowly": 0.45, "glides quickly": 0.95}
"""Pixels per frame."""
WALLS = {"warm": (0.62, 0.50, 0.42), "cool": (0.42, 0.50, 0.62), "mossy": (0.44, 0.56, 0.42)}


@dataclass(frozen=True)
class TinyScene:
    """Names colour, shape, speed and wall of a prompt: keys of COLOURS, SHAPES, SPEEDS and WALLS."""

    colour: str
    shape: str
    speed: str
    wall: str


SCENES = {
    f"a {colour} {shape} {speed} over a {wall} wall": TinyScene(colour, shape, speed, wall)
    for colour, shape, speed, wall in product(COLOURS, SHAPES, SPEEDS, WALLS)
}
"""Every prompt of the world (72) and its scene."""

PROMPTS = tuple(SCENES)

_SHOWN = 60
_THIRD = [prompt for i, prompt in enumerate(PROMPTS) if i % 3 == (i // 3 + i // 12) % 3]
SENTINEL_PROMPTS = tuple(prompt for i, prompt in enumerate(_THIRD) if (i + i // 4) % 4 == 0)
TRAINING_PROMPTS = tuple(prompt for prompt in _THIRD if prompt not in SENTINEL_PROMPTS)
HELD_OUT_PROMPTS = tuple(prompt for prompt in PROMPTS if prompt not in _THIRD)
"""18 prompts for stage grpo to train on, 6 for its sentinels, 48 for judging it: all three hold every word."""


def scene_of(prompt: str) -> TinyScene:
    """Return the scene of `prompt`. Raises ConfigError for a prompt outside the world."""
    if prompt not in SCENES:
        shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
        raise ConfigError("prompt", shown, "the tiny world does not know it", f'write one like "{PROMPTS[0]}"')
    return SCENES[prompt]


def spread_prompts(count: int) -> list[str]:
    """Choose `count` prompts, spread over all of the world's; beyond their number they come again."""
    return [PROMPTS[(7 * i) % len(PROMPTS)] for i in range(count)]
