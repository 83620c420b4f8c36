"""Declare the keys of the training prompts."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, check_address, key


@dataclass(kw_only=True)
class PromptConfig(KeyGroup, group="prompt"):
    """Configures selection and extension of the prompts in the file `prompts`."""

    min_characters: int = key(10, "shortest training prompt, in characters; shorter ones are dropped", ge=1)
    max_characters: int = key(2000, "longest training prompt, in characters; longer ones are dropped", ge=1)
    negative: str | None = key(None, "negative prompt of guidance; none: Wan's own for Wan, empty in the tiny world")
    url: str | None = key(
        None,
        "OpenAI-compatible endpoint (http://host:port/v1) that extends prompts; its token: LONGTAKE_PROMPT_TOKEN",
        resumable=True,
    )
    model: str = key("Qwen/Qwen2.5-7B-Instruct", "language model at prompt.url that extends prompts")
    cache: str | None = key(
        None, "file of extended prompts, which runs may share; none: extended_prompts.jsonl in run_dir", resumable=True
    )
    parallel: int = key(16, "concurrent requests to prompt.url", ge=1, le=100_000, resumable=True)
    retries: int = key(
        2, "retries of a failed request to prompt.url; then the prompt stays unextended", ge=0, resumable=True
    )
    timeout_s: float = key(60.0, "longest wait for one answer of prompt.url, in seconds", gt=0, resumable=True)

    def __post_init__(self):
        super().__post_init__()
        if self.max_characters < self.min_characters:
            raise ConfigError(
                "prompt.max_characters",
                self.max_characters,
                f"below prompt.min_characters={self.min_characters}",
                f"write prompt.max_characters={self.min_characters} or more",
            )
        if self.url is not None:
            check_address("prompt.url", self.url)
