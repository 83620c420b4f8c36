"""The keys of evaluate.py."""

import re
from dataclasses import dataclass

from evaluation.benchmark_columns.benchmark_config import EmbeddingConfig, VBenchConfig
from evaluation.judging.judge_config import JudgeConfig
from models.errors import ConfigError
from models.keys import KeyGroup, key, part

_NAMED = re.compile(r",(?=[\w.+-]+=)")


@dataclass(kw_only=True)
class EvaluationConfig(KeyGroup):
    """Describe which videos to judge, by what, and where the results go."""

    videos: str | None = key(None, "folder of videos; several side by side: [a=folder1,b=folder2]")
    checkpoint: str | None = key(
        None, "student whose videos are generated first; several: [a=file1,b=file2]; takes the keys of generate.py too"
    )
    prompts: str | None = key(
        None, "file with a prompt for each video, in the order of their names; none: NAME.txt beside a video"
    )
    first_prompts: int | None = key(
        None, "prompts used, from the beginning of prompts; the paper uses 128 of MovieGen's; none: all", ge=1
    )
    horizons: list[float] = key([], "lengths in seconds at which each video is judged, next to the whole of it", gt=0)
    out: str = key("runs/evaluation", "folder of evaluation.json, the rows per second and report.html")
    workers: int = key(1, "videos judged at the same time, each in a process of Ray; 1: in this process", ge=1, le=4096)
    address: str | None = key(None, "address of a running Ray; none: a Ray of this machine, where workers is above 1")
    timeout_s: float = key(3600.0, "longest time for one video, in seconds; then it counts as unreadable", gt=0)
    worker_gpus: float = key(0.0, "GPUs of each process, with workers above 1", ge=0)
    tensor_fps: float = key(16.0, "frames per second of .safetensors files, which do not say", gt=0, le=1000)
    real_videos: str | None = key(
        None,
        "folder of real films that vs_proxy compares with; tiny: the tiny world's; none: vs_proxy sees changes only",
    )
    title: str = key("Evaluation", "title of the report")
    judge: JudgeConfig = part(JudgeConfig)
    vbench: VBenchConfig = part(VBenchConfig)
    embeddings: EmbeddingConfig = part(EmbeddingConfig)

    def __post_init__(self):
        super().__post_init__()
        if not self.videos and not self.checkpoint:
            raise ConfigError(
                "videos", None, "no videos are given", "write videos=FOLDER, or videos=[a=FOLDER,b=FOLDER]"
            )
        folders, students = methods_of("videos", self.videos), methods_of("checkpoint", self.checkpoint)
        if both := folders.keys() & students.keys():
            raise ConfigError(
                "checkpoint", self.checkpoint, f"{both.pop()} names videos too", "write checkpoint=[b=FILE]"
            )
        if self.judge.pairwise and len(folders) + len(students) < 2:
            fix = "write videos=[a=FOLDER,b=FOLDER]"
            raise ConfigError("judge.pairwise", True, "there is one method, and so nothing to compare", fix)


def methods_of(name: str, value: str | None) -> dict[str, str]:
    """Read the value of a key into paths by method: PATH, or [METHOD=PATH,...]. Raises ConfigError."""
    if value is None:
        return {}
    if not (value.startswith("[") and value.endswith("]")):
        return {"student" if name == "checkpoint" else "videos": value}
    methods: dict[str, str] = {}
    for entry in _NAMED.split(value[1:-1]):
        method, equals, path = entry.strip().partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+", method) or not path:
            raise ConfigError(name, value, f"{entry} is not METHOD=PATH", f"write {name}=[a=PATH,b=PATH]")
        if method in methods:
            raise ConfigError(name, value, f"two methods are called {method}", "give each its own name")
        methods[method] = path
    return methods
