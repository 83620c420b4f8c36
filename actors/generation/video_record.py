"""Keep a record beside each video, in NAME.json, from which it is made again."""

import csv
import io
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
from models.checkpoints.hub import snapshot_commit
from models.errors import ConfigError
from models.file_kinds import read_text
from models.provenance import commit
from models.user_paths import user_path

_PLACES = ("out", "text_cache", "device", "compile", "batch", "from_json")
"""Keys that say where a video is made and kept, but nothing of its frames beyond rounding."""
_OF_THE_HUB = ("checkpoint", "vae", "text_encoder")
"""Keys of weights, beside lora, that may name a repository of the hub."""
_ALTERNATIVES = (("prompt", "prompts", "prompt_schedule"), ("seed", "seeds"), ("image", "video", "images"))
"""Keys of which one in a command replaces the recorded ones."""
_DEPENDENT = {
    "lora": ("lora_strength", "lora_part", "lora_live"), "prompt": ("recache",), "prompts": ("recache",),
    "extend": ("overlap",), "sampler": ("steps", "stagger", "solver", "context_noise"),
}  # fmt: skip
"""Keys that the recorded ones mean nothing for, once a command gives another value of the first."""
_WEIGHTS = ("checkpoint", "lora", "lora_strength", "lora_live", "dtype", "student.model")
"""Keys that decide the student's weights."""
_LIBRARIES = ("torch", "numpy", "av", "pillow")


def keys_of_video(config: GenerationConfig) -> dict[str, Any]:
    """Return the keys that decide the frames of a single video, by dotted name, as JSON has them.

    Paths are absolute; repositories of the hub stay as typed.
    """
    plain = asdict(config)
    plain |= {f"student.{name}": value for name, value in plain.pop("student").items()}
    for name in (*_OF_THE_HUB, "image", "video"):
        if plain[name] is not None:
            plain[name] = _lasting(plain[name], name)
    if config.lora is not None:
        loras, line = [_lasting(name, "lora") for name in config.lora_names], io.StringIO()
        csv.writer(line, lineterminator="").writerow(loras)
        plain["lora"] = loras[0] if len(loras) == 1 else f"[{line.getvalue()}]"
    kept = {name: value for name, value in plain.items() if name not in _PLACES}
    endless = {name: str(value) for name, value in kept.items() if isinstance(value, float) and math.isinf(value)}
    return json.loads(json.dumps(kept | endless))


def _lasting(given: str, key: str) -> str:
    """Return a name that means the same in every working folder."""
    hub = key in (*_OF_THE_HUB, "lora") and snapshot_commit(given, key) is not None
    return given if hub else str(user_path(given, key).absolute())


def write_record(
    path: Path, config: GenerationConfig, checkpoint: Path, weights: str, machine: Mapping[str, Any]
) -> None:
    """Write the record of the single video `path`; `weights` is its student's fingerprint. Raises OSError."""
    record = {
        "keys": keys_of_video(config), "checkpoint": str(checkpoint.absolute()), "weights": weights,
        "machine": dict(machine), "versions": _versions(),
    } | _sources(config)  # fmt: skip
    write_atomic(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


def _sources(config: GenerationConfig) -> dict[str, Any]:
    """Identify the files behind the names of a configuration: SHA-256 of start and LoRAs, snapshots of the hub."""
    from models.checkpoints.folders import LORA_STEMS, weights_files  # torch, which reading a record does not wait for
    from models.fingerprint import file_digest

    start = config.image or config.video
    loras = []
    for path, _ in config.chosen_loras():
        files = weights_files(path, "lora", LORA_STEMS)
        files += [file for file in [files[0].with_name("adapter_config.json")] if file.is_file()]
        loras.append({file.name: file_digest(file) for file in files})
    named = [(name, getattr(config, name)) for name in _OF_THE_HUB] + [("lora", name) for name in config.lora_names]
    snapshots = {given: snapshot_commit(given, name) for name, given in named if given is not None}
    return {
        "start_sha256": None if start is None else file_digest(user_path(start, "image")),
        "lora_sha256": loras,
        "snapshots": {given: snapshot for given, snapshot in snapshots.items() if snapshot is not None},
    }


def read_record(path: str) -> dict[str, Any]:
    """Read the record of a video. Raises ConfigError for another file."""
    file = user_path(path, "from_json")
    try:
        record = json.loads(read_text(file, "from_json"))
        mappings = (record[name] for name in ("keys", "machine", "versions"))
        if isinstance(record["weights"], str) and all(isinstance(one, dict) for one in mappings):
            return record
    except OSError as error:
        raise ConfigError("from_json", path, f"cannot be read ({error.strerror})", "name a file") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
    raise ConfigError("from_json", path, "this is no record of a video", "name the .json beside a video")


def recorded_keys(path: str, given: Collection[str]) -> dict[str, Any]:
    """Read the keys of a record that the keys `given` on the command line do not replace. Raises ConfigError."""
    keys = read_record(path)["keys"]
    replaced = {name for names in _ALTERNATIVES if {*names} & {*given} for name in names}
    replaced |= {name for key, names in _DEPENDENT.items() if key in given for name in names}
    if "preset" in given:
        replaced |= {name for name in keys if name.startswith("student.")}
    return {name: value for name, value in keys.items() if name not in replaced}


def repeat_notes(config: GenerationConfig, weights: str, machine: Mapping[str, Any]) -> list[str]:
    """Compare weights, LoRAs, start and machine with the recorded ones; returns notes on what may change pixels.

    Raises ConfigError where weights, LoRAs or start are others under the same names.
    """
    record, keys, sources = read_record(config.from_json), keys_of_video(config), _sources(config)
    same = [name for name, value in record["keys"].items() if keys.get(name) == value]
    changed = [
        name
        for name, source, decided_by in (
            (config.lora, "lora_sha256", {"lora"}),
            (config.image or config.video, "start_sha256", {"image", "video"}),
        )
        if name is not None and decided_by <= {*same} and record.get(source, sources[source]) != sources[source]
    ]
    if changed:
        problem = f"{changed[0]} has changed since"
        raise ConfigError("from_json", config.from_json, problem, "give the file that made it")
    if record["weights"] != weights and {*_WEIGHTS} <= {*same}:
        problem = f"the student's weights are not those that made the video ({record['weights']})"
        raise ConfigError("from_json", config.from_json, problem, "give the files that made it, or write checkpoint=")
    now = _versions() | dict(machine)
    before = record["versions"] | record["machine"]
    snapshots = record.get("snapshots", {})
    return [
        f"made with {name} at {snapshots[name]}, made again with it at {snapshot}: pixels may differ"
        for name, snapshot in sources["snapshots"].items()
        if snapshots.get(name, snapshot) != snapshot
    ] + [
        f"made with {name}={before[name]}, made again with {now[name]}: pixels may differ by roundings"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]


def _versions() -> dict[str, str]:
    """Return the versions of the code, Python and the libraries that decide pixels."""
    return {"longtake": commit(), "python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
