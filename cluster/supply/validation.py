"""Whether a delivered window is what was asked for: wrong ones are refused by name and counted, never trained on."""

from collections.abc import Sequence

import torch

from actors.rollout_config import WindowConfig
from cluster.supply.ledger import VersionHistory
from cluster.supply.wire import Item, take_apart
from models.network_config import StudentConfig
from models.records import Group, GroupPlan, MadeBlock, Rollout, Trajectory, Window, WindowPlan


class BadWindow(ValueError):
    """A window that must not be trained on; `reason` is one word for the counters."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def inspect_block(
    block: MadeBlock, before: Sequence[MadeBlock], rows: int, student: StudentConfig, versions: VersionHistory
) -> None:
    """Raise BadWindow unless `block` follows those before it, of `rows` videos: others may go on from it."""
    where = f"block {block.index}"
    expected = before[-1].index + 1 if before else 0
    if block.index != expected:
        raise BadWindow("splice", f"{where} came where block {expected} was to come")
    if block.version not in versions:
        raise BadWindow("version", f"{where} names version {block.version}, which was not published on this timeline")
    shape = (rows, student.block_frames, *student.frame_shape)
    tensors = {"x0": block.x0} | {f"input {step}": x for step, x in block.inputs.items()}
    for name, tensor in tensors.items():
        _inspect_shape(tensor, shape, f"{where}: {name}")


def inspect(
    item: Window | Group | Trajectory,
    rollout: Rollout,
    student: StudentConfig,
    window: WindowConfig,
    versions: VersionHistory,
) -> None:
    """Raise BadWindow unless `item` is a window of `rollout` as planned, by weights that were published here.

    Its values are looked at by `inspect_values`.
    """
    where = f"window {item.index} of rollout {item.rollout}"
    plan = next((plan for plan in rollout.windows if plan.index == item.index), None)
    if item.rollout != rollout.id or plan is None:
        raise BadWindow("plan", f"{where} was not asked for")
    if item.attempt != rollout.attempt:
        raise BadWindow("attempt", f"{where} is of attempt {item.attempt}, expected was {rollout.attempt}")
    if item.prompt != rollout.prompt or getattr(item, "seed", rollout.seed) != rollout.seed:
        raise BadWindow("plan", f"{where} has another prompt or seed than was drawn for it")
    if isinstance(item, Window):
        _inspect_window(item, plan, where, student, window, versions)
        _inspect_image(item, "image", item.image, student.frame_shape, where, student)
    elif isinstance(item, Group):
        _inspect_group(item, plan, where, student, window, versions)
        images = (plan.members, *student.frame_shape)
        _inspect_image(item, "images", item.images, images, where, student)
    else:
        shape = (student.horizon_frames, *student.frame_shape)
        _inspect_shape(item.latents, shape, f"{where}: latents")
        _inspect_shape(item.states, (len(student.timesteps), *shape), f"{where}: states")


def inspect_values(item: Item) -> None:
    """Raise BadWindow unless every number of `item` is finite. Reads all of it: too slow for an event loop if large."""
    plain, tensors = take_apart(item)
    whole = f" of rollout {plain['rollout']}" if "rollout" in plain else ""
    where = f"{'window' if whole else 'block'} {plain.get('index')}{whole}"
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadWindow("dtype", f"{where}: {name} is {tensor.dtype}, not floating point")
        if not torch.isfinite(tensor).all():
            raise BadWindow("not_finite", f"{where}: {name} has NaN or infinite latents")


def inspect_origin(sample: Window | Group, row: int, made: Sequence[MadeBlock]) -> None:
    """Raise BadWindow unless `sample` was cut from, or forked behind, the blocks streamed for that row of its dispatch.

    An actor that Ray, or a mistake of ours, restarts in the middle of a stream would splice two videos.
    """
    where = f"window {sample.index} of rollout {sample.rollout}"
    frames = sample.context if isinstance(sample, Group) else torch.cat([sample.context, sample.latents])
    if not len(frames):
        return
    if not made:
        raise BadWindow("splice", f"{where} has frames before it, and none were streamed")
    block_frames = made[-1].x0.shape[1]
    if isinstance(sample, Group) and (made[-1].index + 1) * block_frames != sample.start:
        raise BadWindow("splice", f"{where} forks at frame {sample.start}, and the stream stands elsewhere")
    blocks = list(made)[-(len(frames) // block_frames) :]
    if tuple(block.version for block in blocks) != sample.versions[: len(blocks)]:
        raise BadWindow("version", f"{where} has other versions than the blocks that were streamed before it")
    if not torch.equal(torch.cat([block.x0[row] for block in blocks]), frames):
        raise BadWindow("splice", f"{where} is not cut from the blocks that were streamed before it")


def _inspect_window(
    window: Window, plan: WindowPlan, where: str, student: StudentConfig, config: WindowConfig, versions: VersionHistory
) -> None:
    if (window.role, window.start, window.step) != (plan.role, plan.start, plan.step):
        raise BadWindow("plan", f"{where} has another role, start or step than was drawn for it")
    for name in ("latents", "noisy"):
        _inspect_shape(getattr(window, name), (config.frames, *student.frame_shape), f"{where}: {name}")
    if len({tensor.dtype for tensor in (window.context, window.latents, window.noisy)}) > 1:
        raise BadWindow("dtype", f"{where} mixes dtypes")
    _inspect_past(window, config.frames, where, student, config, versions)


def _inspect_group(
    group: Group, plan: GroupPlan, where: str, student: StudentConfig, config: WindowConfig, versions: VersionHistory
) -> None:
    if (group.role, group.start, group.step, group.transitions) != (plan.role, plan.start, plan.step, plan.transitions):
        raise BadWindow("plan", f"{where} has another role, fork or transitions than was drawn for it")
    frames = (plan.frames, *student.frame_shape)
    wanted = dict.fromkeys(("latents", "noisy"), (plan.members, *frames))
    wanted |= dict.fromkeys(("states", "samples", "behaviour"), (plan.members, len(plan.transitions), *frames))
    for name, shape in wanted.items():
        _inspect_shape(getattr(group, name), shape, f"{where}: {name}")
    _inspect_past(group, plan.frames, where, student, config, versions)


def _inspect_image(
    sample: Window | Group,
    name: str,
    image: torch.Tensor | None,
    shape: tuple[int, ...],
    where: str,
    student: StudentConfig,
) -> None:
    """A sample has image latents where the teacher would take its first frame for another one, and only there."""
    expected = student.in_wan_world and sample.start > 0
    if (image is not None) != expected:
        raise BadWindow("image", f"{where} starts at frame {sample.start} and has {'no' if expected else 'an'} image")
    if image is not None:
        _inspect_shape(image, shape, f"{where}: {name}")


def _inspect_past(
    sample: Window | Group,
    frames: int,
    where: str,
    student: StudentConfig,
    config: WindowConfig,
    versions: VersionHistory,
) -> None:
    context = min(sample.start, student.context_frames + config.burn_in_frames)
    _inspect_shape(sample.context, (context, *student.frame_shape), f"{where}: context")
    blocks = (context + frames) // student.block_frames
    if len(sample.versions) != blocks:
        raise BadWindow("version", f"{where} has {len(sample.versions)} versions for {blocks} blocks")
    unknown = [version for version in sample.versions if version not in versions]
    if unknown:
        raise BadWindow("version", f"{where} names version {unknown[0]}, which was not published on this timeline")


def _inspect_shape(tensor: torch.Tensor, wanted: tuple[int, ...], what: str) -> None:
    if tuple(tensor.shape) != wanted:
        raise BadWindow("shape", f"{what} has shape {list(tensor.shape)}, expected {list(wanted)}")
