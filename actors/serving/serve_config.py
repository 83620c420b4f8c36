"""Declare the keys of serve.py."""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from actors.generation.generation_config import PIPE, GenerationConfig
from models.checkpoints.lora_keys import LoraKeys
from models.errors import ConfigError
from models.keys import KeyGroup, key, part
from models.network_config import StudentConfig
from models.worlds.world_config import WorldConfig

_OF_GENERATION = {one.name: one for one in fields(GenerationConfig)}


def _same(name: str) -> Any:
    """Declare the key `name` as generate.py has it."""
    given = _OF_GENERATION[name]
    assert given.default is not MISSING, name
    return field(default=given.default, metadata=given.metadata)


@dataclass(kw_only=True)
class ServeKeys(KeyGroup, group="serve"):
    """Limits what the server gives to whom."""

    host: str = key("127.0.0.1", "address that the server listens on; others than the loopback let in other machines")
    port: int = key(8600, "port that the server listens on; 0 takes a free one", ge=0, le=65_535)
    prompt: str = key("a red disc drifts slowly over a cool wall", "prompt that the page begins with")
    sessions: int = key(4, "most videos made at the same time, each with its own cache", ge=1, le=1024)
    queue: int = key(16, "most people who wait for a place", ge=0, le=10_000)
    idle_s: float = key(300.0, "seconds without a message from its viewer after which a video ends", gt=0, le=86_400)
    longest_s: float = key(1800.0, "seconds after which a video ends; inf for no end", gt=0, le=math.inf)
    clip_s: float = key(60.0, "longest clip that an HTTP request may order, in seconds", gt=0, le=3600)


@dataclass(kw_only=True)
class ServeConfig(WorldConfig, LoraKeys):
    """Describes the student that is served, its videos, and the server."""

    checkpoint: str | None = _same("checkpoint")
    image_fit: str = _same("image_fit")
    image_background: str = _same("image_background")
    fps: str = _same("fps")
    sink: int | None = _same("sink")
    height: int | None = _same("height")
    width: int | None = _same("width")
    enlarge: int | None = _same("enlarge")
    lora_live: bool = _same("lora_live")
    device: str | None = _same("device")
    dtype: str | None = _same("dtype")
    quantize: str | None = _same("quantize")
    compile: bool | None = _same("compile")
    serve: ServeKeys = part(ServeKeys)
    student: StudentConfig = part(StudentConfig)

    def __post_init__(self):
        super().__post_init__()
        if not self.serve.prompt.strip():
            raise ConfigError("serve.prompt", self.serve.prompt, "it has no words", "write a prompt")
        self.generation()

    def generation(self) -> GenerationConfig:
        """Return the keys with which generate.py makes the first video of the page. Raises ConfigError."""
        shared = {one.name: getattr(self, one.name) for one in fields(self) if one.name in _OF_GENERATION}
        return GenerationConfig(**shared, prompt=self.serve.prompt, seconds=math.inf, out=PIPE)
