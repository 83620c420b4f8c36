"""A served tiny student, and viewers of its videos."""

from functools import cache

import torch

from actors.generation.job import Job, open_job
from actors.generation.streaming import Scene, show_blocks, stream_latents
from actors.generation.video_loop import load_student
from actors.serving.block_loop import BlockLoop
from actors.serving.serve_config import ServeConfig, ServeKeys
from actors.serving.session import Session
from models.noise import BlockNoise
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS


@cache
def served() -> tuple[Job, Wan]:
    """Return the shipped student and its world, opened once in a process."""
    job = open_job(ServeConfig().generation())
    return job, load_student(job)


def loop_of(**limits) -> BlockLoop:
    """Make a loop of the shipped student; a clock may be among the limits."""
    clock = {"clock": limits.pop("clock")} if "clock" in limits else {}
    return BlockLoop(*served(), ServeKeys(**limits), **clock)


class SetClock:
    """A clock that tests set."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def joined(
    loop: BlockLoop, seed: int, blocks: float = 0.0, prompt: str = PROMPTS[0], start=None, notify=lambda: None
) -> Session:
    """Let a viewer join who wants this many blocks."""
    text = loop.job.world.encode_text([prompt])
    session = loop.join(prompt, text, seed, notify, start)
    session.want(blocks * loop.job.shape.block_frames)
    return session


def taken(session: Session) -> list[torch.Tensor]:
    """Take all blocks that lie ready."""
    found = []
    while (block := session.take()) is not None:
        found.append(torch.from_numpy(block.frames))
    return found


def generated(scenes: list[tuple[int, str]], seed: int, blocks: int, start=None, recache=False) -> torch.Tensor:
    """Return the frames [T H W 3] that generate.py makes alone; scenes are (first block, prompt)."""
    job, student = served()
    shape, shown = job.shape, []
    given = 0 if start is None else start.shape[1]
    texts = [
        Scene(given + first * shape.block_frames if first else 0, job.world.encode_text([prompt]))
        for first, prompt in scenes
    ]
    noise = BlockNoise([seed], (shape.block_frames, *shape.frame_shape))
    frames = given + blocks * shape.block_frames
    latents = stream_latents(student, shape, texts, noise, job.world.codec, frames, start, recache)
    show_blocks(latents, job.world.codec, job.device, lambda block: shown.append(block[0]))
    return torch.cat(shown)
