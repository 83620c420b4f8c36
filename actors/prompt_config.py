"""Keys of the training prompts. Imports no torch: help must be quick."""

from dataclasses import dataclass

from models.keys import key, require_address, require_positive


@dataclass(kw_only=True)
class PromptConfig:
    """Which prompts of the file `prompts` are used, and how."""

    min_characters: int = key(10, "shorter prompts are dropped")
    max_characters: int = key(2000, "longer prompts are dropped; Wan reads 512 tokens, about 2000 characters")
    negative: str | None = key(
        None, "prompt that guidance leads away from; without, Wan's own for Wan, none in the tiny world"
    )
    url: str | None = key(
        None, "OpenAI-compatible endpoint (http://host:port/v1) that extends prompts; its key: LONGTAKE_PROMPT_TOKEN"
    )
    model: str = key("Qwen/Qwen2.5-7B-Instruct", "model that is asked there (Self-Forcing's)")
    cache: str | None = key(
        None, "file of extended prompts, which runs may share; without, extended_prompts.jsonl in run_dir"
    )
    parallel: int = key(16, "requests at once")
    retries: int = key(2, "further tries of a failed request; then the prompt stays as it is")
    timeout_s: float = key(60.0, "longest wait for one answer")

    def __post_init__(self):
        require_positive("prompt", self, "min_characters", "max_characters", "parallel", "timeout_s")
        if self.max_characters < self.min_characters:
            raise ValueError(
                f"prompt.max_characters = {self.max_characters} is below prompt.min_characters = {self.min_characters};"
                " change one of them"
            )
        if self.retries < 0:
            raise ValueError(f"prompt.retries is {self.retries}; it must be 0 or above")
        if self.url is not None:
            require_address("prompt.url", self.url)
