"""Checks of headers: wrong blocks and windows are refused by name and counted, never trained on or continued.

The values are checked where the tensors are: by `wire.seal` in the actor, by `wire.open_item` in the learner.
"""

from collections.abc import Sequence

from actors.rollout_config import WindowConfig
from cluster.supply.ledger import VersionHistory
from cluster.supply.wire import BadWindow, Header
from models.network_config import StudentConfig
from models.records import Rollout


def validate_block(
    block: Header, before: Sequence[Header], rows: int, student: StudentConfig, versions: VersionHistory
) -> None:
    """Raise BadWindow unless `block` follows those `before` it, of `rows` videos: others may continue from it."""
    expected = before[-1].index + 1 if before else 0
    if block.index != expected:
        raise BadWindow("splice", f"{block.name} came where block {expected} was to come")
    if block.version not in versions:
        raise BadWindow(
            "version", f"{block.name} names version {block.version}, which was not published on this timeline"
        )
    for name in block.layout:
        _require_shape(block, name, (rows, student.block_frames, *student.frame_shape))


def validate_sample(
    sample: Header, rollout: Rollout, student: StudentConfig, window: WindowConfig, versions: VersionHistory
) -> None:
    """Raise BadWindow unless `sample` is a window of `rollout` as planned, by weights that were published here."""
    plan = next((plan for plan in rollout.windows if plan.index == sample.index), None)
    if sample.rollout != rollout.id or plan is None:
        raise BadWindow("plan", f"{sample.name} was not asked for")
    if sample.attempt != rollout.attempt:
        raise BadWindow("attempt", f"{sample.name} is of attempt {sample.attempt}, expected was {rollout.attempt}")
    if (sample.prompt, sample.seed) != (rollout.prompt, rollout.seed):
        raise BadWindow("plan", f"{sample.name} has another prompt or seed than was drawn for it")
    frame = student.frame_shape
    if sample.kind == "Trajectory":
        _require_shape(sample, "latents", (student.horizon_frames, *frame))
        _require_shape(sample, "states", (len(student.timesteps), student.horizon_frames, *frame))
        return
    if (sample.role, sample.start, sample.step) != (plan.role, plan.start, plan.step):
        raise BadWindow("plan", f"{sample.name} has another role, start or step than was drawn for it")
    if sample.kind == "Group":
        if sample.transitions != plan.transitions:
            raise BadWindow("plan", f"{sample.name} has other transitions than were drawn for it")
        frames, videos, image = plan.frames, (plan.members,), "images"
        recorded = dict.fromkeys(("states", "samples", "behaviour"), (*videos, len(plan.transitions), frames, *frame))
    else:
        frames, videos, image, recorded = window.frames, (), "image", {}
    for name, shape in (dict.fromkeys(("latents", "noisy"), (*videos, frames, *frame)) | recorded).items():
        _require_shape(sample, name, shape)
    if sample.kind == "Window" and len({sample.layout[name][0] for name in ("context", "latents", "noisy")}) > 1:
        raise BadWindow("dtype", f"{sample.name} mixes dtypes")
    context = min(sample.start, student.context_frames + window.burn_in_frames)
    _require_shape(sample, "context", (context, *frame))
    blocks = (context + frames) // student.block_frames
    if len(sample.versions) != blocks:
        raise BadWindow("version", f"{sample.name} has {len(sample.versions)} versions for {blocks} blocks")
    if unknown := [version for version in sample.versions if version not in versions]:
        raise BadWindow(
            "version", f"{sample.name} names version {unknown[0]}, which was not published on this timeline"
        )
    # An image stands where the teacher would take the first frame for another one, and only there.
    expected = student.in_wan_world and sample.start > 0
    if (image in sample.layout) != expected:
        found = "no" if expected else "an"
        raise BadWindow("image", f"{sample.name} starts at frame {sample.start} and has {found} image")
    if expected:
        _require_shape(sample, image, (*videos, *frame))


def validate_origin(sample: Header, row: int, made: Sequence[Header]) -> None:
    """Raise BadWindow unless `sample` is cut from, or forked behind, the blocks streamed for that row of its dispatch.

    An actor that Ray, or a mistake of ours, restarts in the middle of a stream would splice two videos.
    """
    (frames,) = sample.frames
    if not frames:
        return
    if not made:
        raise BadWindow("splice", f"{sample.name} has frames before it, and none were streamed")
    block_frames = len(made[-1].frames[row])
    if sample.kind == "Group" and (made[-1].index + 1) * block_frames != sample.start:
        raise BadWindow("splice", f"{sample.name} forks at frame {sample.start}, and the stream stands elsewhere")
    blocks = list(made)[-(len(frames) // block_frames) :]
    if tuple(block.version for block in blocks) != sample.versions[: len(blocks)]:
        raise BadWindow("version", f"{sample.name} has other versions than the blocks that were streamed before it")
    if tuple(frame for block in blocks for frame in block.frames[row]) != frames:
        raise BadWindow("splice", f"{sample.name} is not cut from the blocks that were streamed before it")


def _require_shape(header: Header, name: str, expected: tuple[int, ...]) -> None:
    if header.shape(name) != expected:
        raise BadWindow("shape", f"{header.name}: {name} has shape {header.shape(name)}, expected {expected}")
