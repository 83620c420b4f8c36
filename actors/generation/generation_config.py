"""The keys of generate.py."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from models.keys import key
from models.worlds.world_config import WorldConfig

DTYPES = ("float32", "bfloat16")
PIPE = "-"
"""The `out` that means standard output."""


@dataclass(kw_only=True)
class GenerationConfig(WorldConfig):
    """What to generate and where it goes; the shape of the student is `student.*` of a preset."""

    checkpoint: str | None = key(None, "weights of the student; without, the shipped one of the tiny world")
    prompt: str | None = key(None, "what the video shows")
    prompts: str | None = key(None, "file with a prompt in every line, a video for each; in place of prompt")
    prompt_schedule: Any = key(None, 'prompts and the seconds they begin at, [[0,"a"],[10,"b"]]; in place of prompt')
    recache: bool = key(False, "at a change of the prompt, read the remembered frames again under the new one")
    image: str | None = key(None, "picture that the video begins with, cut to the video's shape")
    seconds: float = key(30.0, "length of the video; inf goes on until it is stopped")
    fps: int = key(16, "video frames per second")
    out: str | None = key(None, "file.mp4; for several videos a folder; - writes rgb24 frames to standard output")
    seed: int = key(0, "seed of the noise")
    seeds: list[int] | None = key(None, "several seeds, a video for each; in place of seed")
    batch: int = key(1, "videos made at the same time")
    sink: int | None = key(None, "first latent frames never forgotten; without, student.sink_frames")
    height: int | None = key(None, "rows of pixels; without, as the preset says")
    width: int | None = key(None, "columns of pixels; without, as the preset says")
    enlarge: int | None = key(None, "rows and columns that a pixel takes in the file; without, until 192 rows are full")
    lora: str | None = key(None, "LoRA file, or a folder with one, that is merged into the student")
    lora_strength: float = key(1.0, "what the LoRA is multiplied by")
    lora_live: bool = key(False, "keep the LoRA beside the weights: slower, and bfloat16 rounds none of it away")
    device: str | None = key(None, "where to compute: cpu, cuda, cuda:1; without, a GPU where there is one")
    dtype: str | None = key(None, f"{' or '.join(DTYPES)}; without, bfloat16 on a GPU and float32 on a CPU")
    compile: bool | None = key(None, "torch.compile of the student's blocks, some minutes once; without, on a GPU")

    def __post_init__(self):
        self._check_prompts()
        if not self.out:
            raise ValueError("out= is missing; give a file that ends in .mp4, a folder, or - for a pipe")
        if math.isnan(self.seconds) or self.seconds <= 0:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0 (inf goes on until it is stopped)")
        for name in ("fps", "batch", "height", "width", "enlarge"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.sink is not None and self.sink < 0:
            raise ValueError(f"sink is {self.sink}; it must be at least 0")
        if self.seeds is not None and (not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"seeds is {list(self.seeds)}; it must hold different numbers of at least 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f'dtype is "{self.dtype}"; it must be {" or ".join(DTYPES)}')
        if not math.isfinite(self.lora_strength):
            raise ValueError(f"lora_strength is {self.lora_strength}; it must be finite")
        if self.lora is None and (self.lora_live or self.lora_strength != 1):
            raise ValueError("lora_live or lora_strength is given, but no lora; give lora=FILE, or leave them out")
        if self.recache and self.prompt_schedule is None:
            raise ValueError("recache=true, but the prompt never changes; give prompt_schedule, or leave recache out")
        if self.seconds * self.fps < 1:
            raise ValueError(
                f"seconds={self.seconds} is less than one frame at fps={self.fps}; give at least {1 / self.fps:.3g}"
            )

    def _check_prompts(self) -> None:
        given = [name for name in ("prompt", "prompts", "prompt_schedule") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "no prompt is given"
            raise ValueError(f"{said}; give one of prompt, prompts and prompt_schedule")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt is empty; say what the video shows")
        if self.prompt_schedule is None:
            return
        scenes = self.prompt_schedule
        if not isinstance(scenes, list) or not all(
            isinstance(scene, list) and len(scene) == 2 and _is_time(scene[0]) and isinstance(scene[1], str)
            for scene in scenes
        ):
            raise ValueError(f'prompt_schedule is {scenes}; it must be pairs like [[0,"a"],[10,"b"]]')
        times = [scene[0] for scene in scenes]
        if not times or times[0] != 0 or any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"prompt_schedule begins scenes at {times} s; they must rise from 0")

    @property
    def frames(self) -> float:
        """Video frames to make; infinite where the video has no end."""
        return math.inf if math.isinf(self.seconds) else round(self.seconds * self.fps)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
