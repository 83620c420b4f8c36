"""Keep a record beside each video, in NAME.json, from which it is made again."""

import json
import math
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actors.generation.generation_config import GenerationConfig
from models.atomic_files import write_atomic
from models.errors import ConfigError
from models.file_kinds import read_text
from models.provenance import commit
from models.user_paths import user_path

_PLACES = ("out", "text_cache", "device", "compile", "batch", "from_json")
"""Keys that say where a video is made and kept, but nothing of its frames beyond rounding."""
_FILES = ("checkpoint", "lora", "vae", "text_encoder", "image", "video")
_ALTERNATIVES = (("prompt", "prompts", "prompt_schedule"), ("seed", "seeds"), ("image", "video", "images"))
"""Keys of which one in a command replaces the recorded ones."""
_WEIGHTS = ("checkpoint", "lora", "lora_strength", "lora_live", "dtype", "student.model")
"""Keys that decide the student's weights."""
_LIBRARIES = ("torch", "numpy", "av", "pillow")


def keys_of_video(config: GenerationConfig) -> dict[str, Any]:
    """Return the keys that decide the frames of a single video, by dotted name, as JSON has them; paths absolute."""
    plain = asdict(config)
    plain |= {f"student.{name}": value for name, value in plain.pop("student").items()}
    for name in _FILES:
        if plain[name] is not None:
            given = plain[name] if isinstance(plain[name], list) else [plain[name]]
            absolute = [str(user_path(path, name).absolute()) for path in given]
            plain[name] = absolute if given is plain[name] else absolute[0]
    kept = {name: value for name, value in plain.items() if name not in _PLACES}
    endless = {name: str(value) for name, value in kept.items() if isinstance(value, float) and math.isinf(value)}
    return json.loads(json.dumps(kept | endless))


def write_record(
    path: Path, config: GenerationConfig, checkpoint: Path, weights: str, machine: Mapping[str, Any]
) -> None:
    """Write the record of the single video `path`; `weights` is its student's fingerprint. Raises OSError."""
    from models.fingerprint import file_digest  # imports torch, which reading a record does not wait for

    start = config.image or config.video
    record = {
        "keys": keys_of_video(config), "checkpoint": str(checkpoint.absolute()), "weights": weights,
        "machine": dict(machine), "versions": _versions(),
        "start_sha256": None if start is None else file_digest(user_path(start, "image")),
    }  # fmt: skip
    write_atomic(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


def read_record(path: str) -> dict[str, Any]:
    """Read the record of a video. Raises ConfigError for another file."""
    file = user_path(path, "from_json")
    try:
        record = json.loads(read_text(file, "from_json"))
        if {"keys", "weights", "machine", "versions"} <= record.keys() and isinstance(record["keys"], dict):
            return record
    except OSError as error:
        raise ConfigError("from_json", path, f"cannot be read ({error.strerror})", "name a file") from error
    except (ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
    raise ConfigError("from_json", path, "this is no record of a video", "name the .json beside a video")


def recorded_keys(path: str, given: Collection[str]) -> dict[str, Any]:
    """Read the keys of a record that the keys `given` on the command line do not replace. Raises ConfigError."""
    keys = read_record(path)["keys"]
    replaced = {name for names in _ALTERNATIVES if {*names} & {*given} for name in names}
    if "preset" in given:
        replaced |= {name for name in keys if name.startswith("student.")}
    return {name: value for name, value in keys.items() if name not in replaced}


def repeat_notes(config: GenerationConfig, weights: str, machine: Mapping[str, Any]) -> list[str]:
    """Compare weights, start and machine with the recorded ones; returns notes on differences that change roundings.

    Raises ConfigError where weights or start are others under the same names.
    """
    from models.fingerprint import file_digest

    record, keys = read_record(config.from_json), keys_of_video(config)
    same = [name for name, value in record["keys"].items() if keys.get(name) == value]
    if record["weights"] != weights and {*_WEIGHTS} <= {*same}:
        problem = f"the student's weights are not those that made the video ({record['weights']})"
        raise ConfigError("from_json", config.from_json, problem, "give the files that made it, or write checkpoint=")
    start = config.image or config.video
    if (
        start is not None
        and {"image", "video"} <= {*same}
        and file_digest(user_path(start, "image")) != record.get("start_sha256")
    ):
        raise ConfigError("from_json", config.from_json, f"{start} has changed since", "give the file that made it")
    now = _versions() | dict(machine)
    before = record["versions"] | record["machine"]
    return [
        f"made with {name}={before[name]}, made again with {now[name]}: pixels may differ by roundings"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]


def _versions() -> dict[str, str]:
    """Return the versions of the code, Python and the libraries that decide pixels."""
    return {"longtake": commit(), "python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
