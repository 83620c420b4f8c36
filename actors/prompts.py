"""Read training prompts from a file, filter them, and order them by the seed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from actors.prompt_config import PromptConfig
from actors.prompt_files import read_prompt_file
from models.errors import ConfigError
from models.noise import Draw


class TrainingPrompts(Sequence[str]):
    """Holds prompts in their file's order (by index), and shuffled without end (`prompt`), as rollouts use them."""

    def __init__(self, texts: Sequence[str], seed: int):
        """Shuffle `texts` by the seed. Raises ConfigError for an empty list."""
        if not texts:
            raise ConfigError("prompts", None, "there are no prompts to train on", "name a file that has some")
        self.texts, self.seed = tuple(texts), seed
        self._shuffled: tuple[int, numpy.ndarray] | None = None
        """The last epoch and its order: a shuffle of 250,000 takes milliseconds."""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: int | slice) -> Any:
        return self.texts[place]

    def prompt(self, i: int) -> str:
        """Return prompt number `i` of an endless sequence that has every prompt once in each epoch.

        A function of (seed, i): a resumed run needs to keep nothing but `i`.
        """
        epoch, place = divmod(i, len(self.texts))
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = numpy.random.default_rng([self.seed, Draw.PROMPTS, epoch])
            self._shuffled = epoch, generator.permutation(len(self.texts))
        return self.texts[self._shuffled[1][place]]


@dataclass(frozen=True)
class PromptFile:
    """Holds the usable prompts of a file, and the number of dropped ones."""

    texts: tuple[str, ...]
    dropped: dict[str, int]
    """Dropped prompts by reason."""

    def __str__(self) -> str:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self.texts):,} prompts" + (f"; dropped: {left_out}" if left_out else "")


def read_prompts(path: Path, config: PromptConfig) -> PromptFile:
    """Read the prompts of a file that can be trained on, each once. Raises ConfigError where none is left."""
    found, kept = read_prompt_file(path), {}
    dropped = Counter(found.refused | {"too short": 0, "too long": 0, "twice": 0})
    for entry in found.entries:
        text = entry.scenes[0][1]
        if len(entry.scenes) > 1:
            problem = f"{text:.40} begins a schedule of prompts, and training takes one prompt an entry"
            raise ConfigError("prompts", path, problem, "give schedules to generate.py, and single prompts here")
        if len(text) < config.min_characters:
            dropped["too short"] += 1
        elif len(text) > config.max_characters:
            dropped["too long"] += 1
        elif text.casefold() in kept:
            dropped["twice"] += 1
        else:
            kept[text.casefold()] = text
    result = PromptFile(tuple(kept.values()), dict(dropped))
    if not kept:
        raise ConfigError(
            "prompts", path, f"no prompt of this file can be used ({result})", "change prompts or prompt.*"
        )
    return result


def prompt_texts(path: Path) -> list[str]:
    """Read the prompts of a file whose entries each stand for a video. Raises ConfigError if one cannot be used."""
    entries = read_prompt_file(path, most_refused=0).entries  # a gap would pair all later prompts with wrong videos
    if scheduled := next((entry for entry in entries if len(entry.scenes) > 1), None):
        problem = f"{scheduled.scenes[0][1]:.40} begins a schedule of prompts, and each video is judged by one"
        raise ConfigError("prompts", path, problem, "give one prompt an entry")
    return [entry.scenes[0][1] for entry in entries]
