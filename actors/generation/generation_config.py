"""Declare the keys of generate.py."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from actors.generation.method_keys import MethodKeys
from actors.prompt_entries import schedule_problem
from models.checkpoints.lora_keys import LoraKeys
from models.errors import ConfigError
from models.keys import DTYPES, key, nearest_multiples, part
from models.network_config import StudentConfig
from models.worlds.world_config import WorldConfig

PIPE = "-"
"""The `out` that means standard output."""
_RATES = (1, 1000)
"""Least and most frames per second."""
_RATE_PARTS = 1_000_000
"""Largest denominator of a rate: containers count time in fractions of 32 bits."""


@dataclass(kw_only=True)
class GenerationConfig(WorldConfig, LoraKeys, MethodKeys):
    """Describes which videos to generate, by which student, and where they go."""

    checkpoint: str | None = key(
        None, "weights of the student: a file, a folder, or a repository of the Hugging Face hub; none: the shipped one"
    )
    prompt: str | None = key(None, "prompt of the video")
    prompts: str | None = key(
        None, "file of prompts (txt, jsonl, json, csv, tsv, parquet), one video for each; in place of prompt"
    )
    prompt_schedule: Any = key(None, 'prompts and their first seconds, [[0,"a"],[10,"b"]]; in place of prompt')
    recache: bool = key(False, "at a change of the prompt, read the remembered frames again under the new one")
    image: str | None = key(None, "picture that the video begins with")
    video: str | None = key(None, "clip that the video continues: its last frames become the student's memory")
    images: str | None = key(None, "folder of pictures and clips, one for each prompt, by name or by order")
    image_fit: str = key("cut", "cut a picture to the video's shape, or pad it with bars", choices=("cut", "pad"))
    image_background: str = key("white", "colour behind transparent pixels and of bars, by name or as #rrggbb")
    seconds: float = key(30.0, "length of the video, in seconds; inf runs until it is stopped", gt=0, le=math.inf)
    fps: str = key("16", "video frames per second, a number or a fraction, as 30000/1001")
    out: str | None = key(
        None,
        "file.mp4, .mkv, .webm, .gif, or .png, a folder of frames; for several videos a folder; - writes rgb24 frames",
    )
    seed: int = key(0, "seed of the video's noise", ge=0, lt=2**63)
    seeds: list[int] | None = key(None, "list of seeds, one video for each; in place of seed", ge=0, lt=2**63)
    batch: int = key(1, "number of videos generated together", ge=1, le=65_536)
    sink: int | None = key(
        None, "latent frames at the beginning that stay in the cache; none: student.sink_frames", ge=0
    )
    height: int | None = key(None, "height of the video, in pixels; none: that of the preset", ge=1, le=32_768)
    width: int | None = key(None, "width of the video, in pixels; none: that of the preset", ge=1, le=32_768)
    enlarge: int | None = key(None, "integer factor that enlarges the written video; none: up to 192 rows", ge=1)
    lora_live: bool = key(False, "keep the LoRA apart from the weights: slower, without rounding in bfloat16")
    device: str | None = key(None, "device to generate on: cpu, cuda, cuda:1; none: a GPU if the machine has one")
    dtype: str | None = key(
        None,
        f"precision of the student: {' or '.join(DTYPES)}; none: bfloat16 on a GPU and float32 on a CPU",
        choices=DTYPES,
    )
    quantize: str | None = key(
        None,
        "numbers of the products in the student's blocks on a GPU, weights and activations: int8, or fp8 from compute "
        "capability 8.9 on; none: those of dtype. Needs torchao",
        choices=("int8", "fp8"),
    )
    compile: bool | None = key(
        None, "compile the student's blocks with torch.compile, some minutes once; none: on a GPU"
    )
    from_json: str | None = key(
        None, "json beside a video that is made again, bit for bit; its keys hold unless given. Short: from=FILE"
    )
    student: StudentConfig = part(StudentConfig)

    def __post_init__(self):
        super().__post_init__()
        self._check_prompts()
        if not self.out:
            raise ConfigError("out", None, "no place for the video is given", "write out=FILE.mp4, a folder, or -")
        self._check_lengths()
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ConfigError("seeds", self.seeds, "not different numbers", "write them as seeds=[0,1]")
        if self.sink is not None and self.sink % self.student.block_frames:
            blocks = self.student.block_frames
            raise ConfigError("sink", self.sink, "no whole number of blocks", f"write a multiple of {blocks} frames")
        if self.sink is not None and self.sink > (most := self.student.context_frames):
            problem = f"more than the {most} frames that a block sees beside itself"
            raise ConfigError("sink", self.sink, problem, f"write sink={most} or less")
        if self.lora is None and self.lora_live:
            raise ConfigError("lora", None, "lora_live needs one", "write lora=FILE, or leave lora_live out")
        if self.quantize is not None and self.lora_live:
            problem = "lora_live adds matrices to weights that are not quantised"
            raise ConfigError("quantize", self.quantize, problem, "leave lora_live out: the LoRA is merged first")
        if self.recache and self.prompt_schedule is None and self.prompts is None:
            problem = "the prompt never changes"
            raise ConfigError("recache", True, problem, "write a prompt_schedule, or leave recache out")
        self.check_method(self.student, self.student.sink_frames if self.sink is None else self.sink, self.recache)

    def _check_lengths(self) -> None:
        """Check seconds and pixels, before any file is opened."""
        if self.seconds * self.rate < 1:
            least = f"write seconds={float(1 / self.rate):.3g} or more"
            raise ConfigError("seconds", self.seconds, f"less than one frame at fps={self.fps}", least)
        for name, patch in zip(("height", "width"), self.student.wan.patch_size[1:], strict=True):
            step, pixels = self.student.space_stride * patch, getattr(self, name)
            most = 4096 * self.student.space_stride
            if pixels is not None and pixels > most:
                raise ConfigError(name, pixels, f"more than {most} pixels", f"write {name}={most} or less")
            if pixels is not None and pixels % step:
                raise ConfigError(name, pixels, f"no multiple of {step} pixels", nearest_multiples(name, pixels, step))

    def _check_prompts(self) -> None:
        given = [name for name in ("prompt", "prompts", "prompt_schedule") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given[1:])} given too" if given else "no prompt is given"
            raise ConfigError(
                given[0] if given else "prompt", None, problem, "write one of prompt, prompts, prompt_schedule"
            )
        if len(starts := [name for name in ("image", "video", "images") if getattr(self, name) is not None]) > 1:
            raise ConfigError(starts[0], getattr(self, starts[0]), f"{starts[1]} is given too", "write one of them")
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt", self.prompt, "it has no words", "write a prompt")
        if self.prompt_schedule is None:
            return
        if problem := schedule_problem(self.prompt_schedule):
            raise ConfigError("prompt_schedule", self.prompt_schedule, problem, 'write it as [[0,"a"],[10,"b"]]')

    @property
    def rate(self) -> Fraction:
        """Return the video frames per second. Raises ConfigError for another text than a number or a fraction."""
        parsed = re.fullmatch(r"\d{1,9}(\.\d{1,9})?|\d{1,9}/0*[1-9]\d{0,8}", self.fps)
        rate = Fraction(self.fps).limit_denominator(_RATE_PARTS) if parsed else Fraction(0)
        if not _RATES[0] <= rate <= _RATES[1]:
            problem = f"no number or fraction from {_RATES[0]} to {_RATES[1]}"
            raise ConfigError("fps", self.fps, problem, "write it as 16, 23.976 or 30000/1001")
        return rate

    @property
    def frames(self) -> float:
        """Count the video frames to make; infinite where the video has no end."""
        return math.inf if math.isinf(self.seconds) else round(self.seconds * self.rate)
