"""Read, filter and extend the training prompts once, and keep them in the run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.prompt_config import PromptConfig
from actors.prompts import TrainingPrompts, read_prompts
from models.atomic_files import write_atomic
from models.errors import ConfigError
from models.worlds import tiny_prompts

_MOST_UNANSWERED = 0.5
"""The share of prompts without an answer above which the endpoint, not the prompts, is to blame."""


@dataclass(frozen=True)
class RunPrompts:
    """Provides the prompts of a run: from its folder, else its file, else the tiny world."""

    run_dir: Path
    file: Path | None
    keys: PromptConfig
    seed: int

    @property
    def kept(self) -> Path:
        """Return the run's own prompts, one a line."""
        return self.run_dir / "prompts.txt"

    def check(self, sentinels: int, in_tiny_world: bool) -> None:
        """Read the file before a folder is claimed for it; `sentinels` prompts are not trained on.

        Raises ConfigError for an unreadable file, for too few prompts, and in the tiny world for any but its own.
        """
        if self.file is None or self.kept.is_file():
            return
        selected = read_prompts(self.file, self.keys)
        if sentinels and len(selected.texts) <= sentinels:
            raise ConfigError(
                "sentinel.prompts", sentinels, f"prompts={self.file} leaves {selected}, and training needs some more",
                "give more prompts, or lower sentinel.prompts",
            )  # fmt: skip
        if not in_tiny_world:
            return
        if self.keys.url is not None:
            raise ConfigError(
                "prompt.url", self.keys.url, "the tiny world reads its own prompts only", "leave prompt.url out"
            )
        for text in selected.texts:
            if text not in tiny_prompts.SCENES:
                raise ConfigError(
                    "prompts", self.file, f'the tiny world knows no "{text:.60}"',
                    f'write prompts like "{tiny_prompts.PROMPTS[0]}"',
                )  # fmt: skip

    def prepare(self) -> list[str]:
        """Write the run's prompts into its folder; returns lines for the user.

        A run that has them keeps them, despite changes of the file or the endpoint: training prompts must not
        change.
        """
        if self.file is None or self.kept.is_file():
            return []
        selected = read_prompts(self.file, self.keys)
        notes, texts = [f"prompts={self.file}: {selected}"], selected.texts
        if self.keys.url is not None:
            from actors.prompt_extension import extend_prompts  # aiohttp, which few processes need

            cache = self.run_dir / "extended_prompts.jsonl" if self.keys.cache is None else Path(self.keys.cache)
            extended = extend_prompts(texts, self.keys, cache)
            if extended.failed > _MOST_UNANSWERED * len(texts):
                raise ConfigError(
                    "prompt.url", self.keys.url,
                    f"{extended.failed:,} of {len(texts):,} prompts got no answer ({extended.reason})",
                    "repair the endpoint and run the same command again, which asks for those only, change prompt.url, "
                    "or leave it out",
                )  # fmt: skip
            notes.append(f"prompt.url: {extended}")
            texts = extended.texts
        write_atomic(self.kept, "".join(f"{text}\n" for text in texts).encode())
        return notes

    def training(self) -> Sequence[str]:
        """Return the prompts of stages ode and dmd."""
        if self.file is None:
            return tiny_prompts.PROMPTS
        if self.kept.is_file():
            return TrainingPrompts(self.kept.read_text(encoding="utf-8").splitlines(), self.seed)
        return TrainingPrompts(read_prompts(self.file, self.keys).texts, self.seed)

    def groups(self, sentinels: int) -> tuple[Sequence[str], Sequence[str]]:
        """Return the prompts of stage grpo, and the first `sentinels` of the file, which are never trained on."""
        if self.file is None:
            return tiny_prompts.TRAINING_PROMPTS, tiny_prompts.SENTINEL_PROMPTS
        texts = self.training()
        return TrainingPrompts(texts[sentinels:], self.seed), texts[:sentinels]

    def evaluated(self, videos: int) -> tuple[str, ...]:
        """Return the prompt of each of `videos` evaluation videos: those held out by `groups`, in turn."""
        texts = tiny_prompts.SENTINEL_PROMPTS if self.file is None else self.training()[:videos]
        return tuple(texts[i % len(texts)] for i in range(videos))
