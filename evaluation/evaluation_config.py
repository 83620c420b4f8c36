"""The keys of evaluate.py."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key

_NAMED = re.compile(r",(?=[\w.+-]+=)")


@dataclass(kw_only=True)
class EvaluationConfig(KeyGroup):
    """Describe which videos to judge, by what, and where the results go."""

    videos: str | None = key(None, "folder of videos; several side by side: [a=folder1,b=folder2]")
    prompts: str | None = key(
        None, "file with a prompt for each video, in the order of their names; none: NAME.txt beside a video"
    )
    out: str = key("runs/evaluation", "folder of evaluation.json, the rows per second and report.html")
    workers: int = key(1, "videos judged at the same time, each in a process of Ray; 1: in this process", ge=1, le=4096)
    address: str | None = key(None, "address of a running Ray; none: a Ray of this machine, where workers is above 1")
    timeout_s: float = key(3600.0, "longest time for one video, in seconds; then it counts as unreadable", gt=0)
    fps: float = key(16.0, "frames per second of .safetensors files, which do not say", gt=0, le=1000)
    title: str = key("Evaluation", "title of the report")

    def __post_init__(self):
        super().__post_init__()
        if not self.videos:
            raise ConfigError(
                "videos", None, "no videos are given", "write videos=FOLDER, or videos=[a=FOLDER,b=FOLDER]"
            )
        methods_of(self.videos)


def methods_of(videos: str) -> Mapping[str, str]:
    """Read `videos` into folders by method: FOLDER, or [NAME=FOLDER,...]. Raises ConfigError."""
    if not (videos.startswith("[") and videos.endswith("]")):
        return {"videos": videos}
    methods: dict[str, str] = {}
    for entry in _NAMED.split(videos[1:-1]):
        name, equals, folder = entry.strip().partition("=")
        if not equals or not name or not folder:
            raise ConfigError("videos", videos, f"{entry} is not NAME=FOLDER", "write videos=[a=FOLDER,b=FOLDER]")
        if name in methods:
            raise ConfigError("videos", videos, f"two methods are called {name}", "give each its own name")
        methods[name] = folder
    return methods
