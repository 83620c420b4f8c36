"""Which prompts a run trains on: read, filtered and extended once, then the run's own."""

from collections.abc import Sequence
from pathlib import Path

from actors.prompt_extension import extend_prompts
from actors.prompts import TrainingPrompts, read_prompts
from cluster.config.run_config import Config
from models.atomic_files import write_whole
from models.worlds import tiny_world

_FAILED = 0.5
"""The share of prompts without an answer from which on the endpoint, not the prompts, is to blame."""


def check_prompts(config: Config) -> None:
    """Read the file, so that what is wrong with it is said before a folder is claimed.

    Raises ValueError for one that cannot be read, for too few prompts, and in the tiny world for any but its own.
    """
    if config.prompts is None or _own(config).is_file():
        return
    found = read_prompts(Path(config.prompts), config.prompt)
    if "grpo" in config.stages and len(found.texts) <= config.sentinel.prompts:
        raise ValueError(
            f"prompts={config.prompts} leaves {found}, and sentinel.prompts = {config.sentinel.prompts} of them are "
            "not trained on; give more prompts, or lower sentinel.prompts"
        )
    if config.in_wan_world:
        return
    if config.prompt.url is not None:
        raise ValueError("prompt.url is set, but the tiny world reads only its own prompts; leave it out")
    for text in found.texts:
        tiny_world.scene_of(text)


def prepare_prompts(config: Config) -> list[str]:
    """Write the run's prompts, one a line, into its folder, and return what is to be said of them.

    A run that has them keeps them: going on must not change what is trained on, though the file or the endpoint has.
    """
    if config.prompts is None or _own(config).is_file():
        return []
    found = read_prompts(Path(config.prompts), config.prompt)
    said, texts = [f"prompts={config.prompts}: {found}"], found.texts
    if config.prompt.url is not None:
        extended = extend_prompts(texts, config.prompt, config.prompt_cache)
        if extended.failed > _FAILED * len(texts):
            raise ValueError(
                f"prompt.url left {extended.failed:,} of {len(texts):,} prompts as they are ({extended.reason}); the "
                "same command asks for those again; repair the endpoint, change prompt.url, or leave it out"
            )
        said.append(f"prompt.url: {extended}")
        texts = extended.texts
    write_whole(_own(config), "".join(f"{text}\n" for text in texts).encode())
    return said


def training_prompts(config: Config) -> Sequence[str]:
    """What stages ode and dmd train on: the run's prompts, before it has begun those of the file, else the world's."""
    if config.prompts is None:
        return tiny_world.PROMPTS
    own = _own(config)
    if own.is_file():
        return TrainingPrompts(own.read_text(encoding="utf-8").splitlines(), config.seed)
    return TrainingPrompts(read_prompts(Path(config.prompts), config.prompt).texts, config.seed)


def group_prompts(config: Config) -> tuple[Sequence[str], Sequence[str]]:
    """What stage grpo trains on, and what its sentinels watch: the first `sentinel.prompts`, which nobody trains on."""
    if config.prompts is None:
        return tiny_world.TRAINING_PROMPTS, tiny_world.SENTINEL_PROMPTS
    texts, watched = training_prompts(config), config.sentinel.prompts
    return TrainingPrompts(texts[watched:], config.seed), texts[:watched]


def _own(config: Config) -> Path:
    return Path(config.run_dir, "prompts.txt")
