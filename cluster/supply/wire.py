"""Seal items into headers and payloads, validate them against the plan, and open them once.

    actor process            coordinator process                    learner rank
    -------------            -------------------                    ------------
    item
      |  seal: finite? digests
      +--> header ---------> validate_*: as planned,
      |                      order, count, score ----- header ----> open_item: layout, digests, finite?
      +--> payload           holds the reference ----- reference -> bytes of the node's store, read in place
                                                                      |
                                                                    item, or BadWindow -> the window is made again

Inline the same calls run in one process, and the payload stands in the header itself.

Example:
    header, payload = seal(window)                      # in the actor; raises BadWindow
    header = replace(header, payload=reference)         # by the receiver: any object that leads to the payload
    window = open_item(header, payload)                 # in the learner; raises BadWindow
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from actors.rollout_config import WindowConfig
from cluster.supply.item_tensors import KINDS, Item, Layout, digests_of, put_together, take_apart
from cluster.supply.ledger import VersionHistory
from cluster.supply.tensor_bytes import ByteViews, view_bytes, view_tensors
from models.network_config import StudentConfig
from models.records import MadeBlock, Rollout

LOST = "lost"
"""Reason of a BadWindow whose payload was lost with its node."""


class BadWindow(ValueError):
    """Names a block or window that must not be used; `reason` is one word for the counters."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Header:
    """Describes an item without its tensors: everything that supply and buffer look at."""

    kind: str
    rollout: int = -1
    attempt: int = 0
    index: int = 0
    """Which window of its rollout, or which block of its videos."""
    role: str = ""
    prompt: str = ""
    seed: int = 0
    start: int = 0
    step: int = 0
    transitions: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    """Weight version by block; none of a trajectory."""
    scores: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    age: int = 0
    weight: float = 1.0
    layout: Layout = field(default_factory=dict)
    frames: tuple[tuple[int, ...], ...] = ()
    """CRC-32 of each clean latent frame, by video: they show that a window is cut from the streamed blocks."""
    checksum: int = 0
    """CRC-32 of the layout and of all other tensors."""
    nbytes: int = 0
    rows: tuple[int, ...] | None = None
    """Selected videos of a block's payload; None for all of them."""
    drift: float | None = None
    """Distance of a block's channel means to those of the videos' first frames; with law `priority` only."""
    payload: Any = None
    """The tensors: ByteViews, or a reference to them."""

    @property
    def version(self) -> int:
        """Return the version of the oldest block: a window is as old as its oldest part."""
        return min(self.versions)

    @property
    def name(self) -> str:
        """Name the window or block in messages."""
        return f"window {self.index} of rollout {self.rollout}" if self.rollout >= 0 else f"block {self.index}"

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor; None without it."""
        return self.layout[name][1] if name in self.layout else None

    def select(self, rows: Sequence[int]) -> "Header":
        """Select some videos of a block."""
        payload_rows = [row if self.rows is None else self.rows[row] for row in rows]
        return replace(self, rows=tuple(payload_rows), frames=tuple(self.frames[row] for row in rows))


def seal(item: Item, drift: float | None = None) -> tuple[Header, ByteViews | None]:
    """Make header and payload of an item, which share its memory; no payload without tensors.

    Raises BadWindow for values that must not be trained on: `not_finite`, `dtype`.
    """
    plain, tensors = take_apart(item)
    layout, frames, checksum = digests_of(plain["kind"], tensors)
    known = {name: value for name, value in plain.items() if name in Header.__dataclass_fields__}
    if isinstance(item, MadeBlock):
        known["versions"] = (item.version,)
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    header = Header(**known, layout=layout, frames=frames, checksum=checksum, nbytes=nbytes, drift=drift)
    _require_finite(header, tensors)
    return header, view_bytes(tensors) if tensors else None


def open_item(header: Header, payload: ByteViews) -> Item:
    """Open the item, whose tensors share the payload's bytes: read them, do not write to them.

    Raises BadWindow `checksum` where the bytes are not those that were sealed, `not_finite` for their values.
    """
    tensors = view_tensors(payload)
    _, frames, checksum = digests_of(header.kind, tensors)
    if header.rows is not None:
        frames = tuple(frames[row] for row in header.rows)
    if (frames, checksum) != (header.frames, header.checksum):
        raise BadWindow("checksum", f"{header.name}: its tensors are not those that its actor sent: damaged bytes")
    _require_finite(header, tensors)
    names = [own.name for own in fields(KINDS[header.kind]) if hasattr(header, own.name)]
    item = put_together({"kind": header.kind} | {name: getattr(header, name) for name in names}, tensors)
    return item if header.rows is None else item.rows(header.rows)


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
        raise BadWindow("plan", f"{sample.name} was not requested")
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
    # Only windows in the middle of a video of Wan have an image, in place of their first frame for the teacher.
    expected = student.in_wan_world and sample.start > 0
    if (image in sample.layout) != expected:
        article = "no" if expected else "an"
        raise BadWindow("image", f"{sample.name} starts at frame {sample.start} and has {article} image")
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


def _require_finite(header: Header, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadWindow("dtype", f"{header.name}: {name} is {tensor.dtype}, not floating point")
        # Bounds are 30 times as fast as isfinite, which writes a mask: every byte is checked as it is sent and opened.
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise BadWindow("not_finite", f"{header.name}: {name} has NaN or infinite latents")


def _require_shape(header: Header, name: str, expected: tuple[int, ...]) -> None:
    if header.shape(name) != expected:
        raise BadWindow("shape", f"{header.name}: {name} has shape {header.shape(name)}, expected {expected}")
