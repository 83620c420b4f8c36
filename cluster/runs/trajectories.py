"""Teacher trajectories of a run: where they are kept, what makes them, and in which order updates come to know them."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from actors.teacher_actor import solver_sigmas
from cluster.config.run_config import Config
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_world import text_of
from cluster.runs.trajectory_folder import PairFolder, check_own, find_given, find_own, pair_bytes
from cluster.runs.trajectory_index import PairIndex, PairOrigin
from cluster.supply.buffer import order_of_leaving
from models.checkpoints.weight_files import stored_tensors
from models.fingerprint import fingerprint
from models.flow_matching import warped_sigmas

_MEGABYTE = 10**6


def open_pairs(config: Config) -> PairFolder:
    """The run's trajectories as far as they are made, or those that another run made (a collective)."""
    path, order = _path(config), pair_order(config)
    shard_bytes = config.ode.shard_mb * _MEGABYTE
    if config.ode.pairs_dir is None:
        return PairFolder(path, order, shard_bytes, lambda: find_own(path, pair_origin(config)))
    return PairFolder(path, order, shard_bytes, lambda: _given(config, order))


def check_pairs(config: Config) -> None:
    """Refuse, before anything starts, trajectories of another teacher or of other settings, and a disk too small.

    Changes nothing. Raises ValueError.
    """
    if "ode" not in config.stages or RunFolder(config.run_dir).stage("ode").finished:
        return
    trained_here = "teacher" in config.stages and not config.teacher_path.exists()
    if config.ode.pairs_dir is None:
        _check_room(config)
        if not trained_here:
            check_own(_path(config), lambda: pair_origin(config))
    elif trained_here:
        raise ValueError(
            f"ode.pairs_dir={config.ode.pairs_dir} is given, and stage teacher would make another teacher than theirs; "
            "leave one of them out"
        )
    else:
        _given(config, pair_order(config))


def pair_order(config: Config) -> list[int]:
    """Numbers of all trajectories as a run that makes all of them takes them.

    Updates come to know them in this order whatever is on disk already: a resumed run draws the batches of one that was
    never stopped.
    """
    size, pairs = config.rollout.batch, config.ode.pairs
    dispatches = [range(first, min(first + size, pairs)) for first in range(0, pairs, size)]
    return [number for numbers in dispatches for number in order_of_leaving(numbers, config.seed, numbers[0])]


def given_prompts(config: Config) -> list[str]:
    """Prompts of the trajectories in ode.pairs_dir that this run trains on. Raises ValueError as `check_pairs`."""
    numbers = set(_needed(config, pair_order(config)))
    entries = _given(config, pair_order(config)).entries()
    return [entry.prompt for entry in entries if entry.number in numbers]


def planned_bytes(config: Config, dtype: str) -> int:
    """Bytes of one trajectory in `dtype`."""
    return pair_bytes(replace(_origin(config, "", ""), dtype=dtype))


def pair_origin(config: Config) -> PairOrigin:
    """What this run's trajectories come from. Reads all of the teacher's weights."""
    teacher = f"{fingerprint(dict(stored_tensors(config.teacher_path))):016x}"
    return _origin(config, teacher, text_of(config, torch.device("cpu")).identity)


def _origin(config: Config, teacher: str, text_encoder: str) -> PairOrigin:
    student, ode = config.student, config.ode
    own = warped_sigmas(student.timesteps, student.shift)
    sigmas = solver_sigmas(own, ode.solver_steps, student.shift)
    return PairOrigin(
        teacher=teacher,
        solver_steps=len(sigmas),
        timesteps=list(student.timesteps),
        shift=student.shift,
        indices=[*(sigmas.index(sigma) for sigma in own), -1],
        guidance=ode.guidance,
        negative_prompt=config.negative_prompt,
        shape=[student.horizon_frames, *student.frame_shape],
        dtype=ode.dtype,
        text_encoder=text_encoder,
    )


def _path(config: Config) -> Path:
    return Path(config.run_dir, "ode_pairs") if config.ode.pairs_dir is None else Path(config.ode.pairs_dir)


def _given(config: Config, order: list[int]) -> PairIndex:
    return find_given(_path(config), pair_origin(config), _needed(config, order), "ode.pairs_dir")


def _needed(config: Config, order: list[int]) -> list[int]:
    return order[: config.ode.pairs_at(config.ode.steps - 1)]


def _check_room(config: Config) -> None:
    path = _path(config)
    needed = config.ode.pairs * planned_bytes(config, config.ode.dtype)
    there = sum(file.stat().st_size for file in path.glob("shard_*.safetensors"))
    disk = next(folder for folder in path.absolute().parents if folder.is_dir())
    disk_usage = shutil.disk_usage(disk)
    free = disk_usage.free
    if disk_usage.total and needed - there > free:  # what has no size, as /proc, is no place to write: `claim` says so
        raise ValueError(
            f"run_dir={config.run_dir} has {free / 1e9:,.0f} GB free, and ode.pairs = {config.ode.pairs} trajectories "
            f"take {needed / 1e9:,.0f} GB; give another run_dir, or lower ode.pairs"
        )
