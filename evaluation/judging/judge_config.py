"""Keys of the judge: endpoint, rubric, frames, repeats, and what it may cost."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from evaluation.judging.frame_plan import FramePlan
from models.errors import ConfigError
from models.keys import KeyGroup, check_address, key

JUDGE_KEY = "LONGTAKE_JUDGE_KEY"
"""Environment variable with the endpoint's key, sent as `Authorization: Bearer`; never logged or stored."""
_JPEG_QUALITY = 90


@dataclass(kw_only=True)
class JudgeConfig(KeyGroup, group="judge"):
    """A multimodal language model as judge; the paper names neither its frames nor repeats nor seed."""

    url: str | None = key(
        None, "OpenAI-compatible endpoint (http://host:port/v1); its key: LONGTAKE_JUDGE_KEY; none: no judge"
    )
    model: str = key("Qwen/Qwen2.5-VL-7B-Instruct", "model at that endpoint")
    rubric: str = key("exposure_stability", "rubric of scores: a shipped one's name, or the path of a file")
    pair_rubric: str = key("exposure_pair", "rubric of comparisons: a shipped one's name, or the path of a file")
    pairwise: bool = key(
        False, "also compare the videos of each two methods that have the same prompt, each pair shown in both orders"
    )
    transcripts: str | None = key(
        None, "file of transcripts (JSON lines), which evaluations may share; none: judge.jsonl beside the results"
    )
    ratings: str | None = key(None, "CSV file (name,score) of people's scores from 0 to 5, to compare the judge with")
    frames_per_s: float = key(1.0, "frames shown per second of video, at most", gt=0, le=1000)
    most_frames: int = key(100, "frames shown of one video, at most", ge=1, le=10_000)
    rows: int = key(360, "largest height of a shown frame, in pixels", ge=16, le=4320)
    repeats: int = key(1, "times that each video is judged", ge=1, le=1000)
    temperature: float = key(0.0, "temperature of sampling", ge=0, le=2)
    seed: int = key(0, "seed of sampling at the endpoint, of the first repeat", ge=0)
    answer_format: str = key(
        "json_schema",
        "json_schema (the endpoint holds the model to the form of the answer) or text (only the rubric asks for it)",
        choices=("json_schema", "text"),
    )
    most_output_tokens: int = key(2048, "tokens of one answer, at most", ge=64)
    parallel: int = key(8, "requests at once", ge=1, le=100)
    timeout_s: float = key(300.0, "longest wait for one answer, in seconds", gt=0)
    retries: int = key(3, "further tries of a failed request; then the score is missing", ge=0)
    longest_wait_s: float = key(120.0, "longest Retry-After that is waited for, in seconds", gt=0)
    most_calls: int | None = key(None, "requests of a transcript file, tries included, at most; none: no limit", ge=0)
    most_dollars: float | None = key(None, "cost of a transcript file, in dollars, at most; none: no limit", ge=0)
    dollars_per_million_input: float | None = key(None, "price of a million input tokens, in dollars", ge=0)
    dollars_per_million_output: float | None = key(None, "price of a million output tokens, in dollars", ge=0)

    @property
    def plan(self) -> FramePlan:
        """Return which frames are shown."""
        return FramePlan(self.frames_per_s, self.most_frames, self.rows, _JPEG_QUALITY)

    def dollars(self, input_tokens: int, output_tokens: int) -> float | None:
        """Compute the cost of a request; None without prices."""
        if self.dollars_per_million_input is None or self.dollars_per_million_output is None:
            return None
        spent = self.dollars_per_million_input * input_tokens + self.dollars_per_million_output * output_tokens
        return spent / 1_000_000

    def __post_init__(self):
        super().__post_init__()
        if self.url is not None:
            check_address("judge.url", self.url)
            if (parts := urlsplit(self.url)).query or parts.fragment:
                raise ConfigError(
                    "judge.url", None, "it has a part behind ? or #, which files would keep",
                    f"write http://host:port/v1 and the key in {JUDGE_KEY}",
                )  # fmt: skip
        if self.pairwise and self.url is None:
            raise ConfigError("judge.pairwise", True, "there is no judge", "write judge.url=http://host:port/v1")
        if self.most_dollars is not None and self.dollars(0, 0) is None:
            raise ConfigError(
                "judge.most_dollars", self.most_dollars, "without prices no cost is known",
                "write judge.dollars_per_million_input and judge.dollars_per_million_output",
            )  # fmt: skip
