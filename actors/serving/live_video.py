"""Make one video without end, block by block; its prompt may change between two blocks."""

from collections.abc import Iterator

import numpy
import torch
from torch import Tensor

from actors.generation.job import Job
from actors.generation.streaming import begin_cache, decoded_frames
from models.flow_matching import warped_sigmas
from models.noise import BlockNoise
from models.sampler import SampledBlock, stream_blocks
from models.wan.network import Wan


class LiveVideo:
    """Holds the cache, the noise and the decoder's state of one video: the pixels of generate.py, bit by bit.

    The network runs on this video alone, never on a batch of several: products of more rows round differently, and
    then the coming and going of others would change its pixels.
    """

    def __init__(self, job: Job, student: Wan, text: Tensor, seed: int, start: Tensor | None = None):
        """Begin a video under `text` [1 S text_dim], with the picture `start` [1 T 3 H W] in [0, 1] where given."""
        self.job, self.student, self.shape = job, student, job.shape
        self.noise = BlockNoise([seed], (self.shape.block_frames, *self.shape.frame_shape), job.device)
        self.text = text.to(job.device)
        self.unseen = None if start is None else job.world.codec.encode(start.to(job.device))
        self.cache, self.remembered = begin_cache(student, self.shape, self.text, self.unseen)
        self.past = None
        """State of the decoder behind the last frame."""
        self.blocks = self._stream()

    def _stream(self) -> Iterator[SampledBlock]:
        sigmas = warped_sigmas(self.shape.timesteps, self.shape.shift)
        return stream_blocks(self.student, self.text, self.noise, sigmas, self.cache)

    @torch.no_grad()
    def change_text(self, text: Tensor, recache: bool) -> None:
        """Let the next block follow another prompt; `recache` reads the remembered frames again under it."""
        self.text = text.to(self.job.device)
        if recache:
            self.cache = self.remembered.read_again(self.student, self.text, self.cache.frames)
        self.blocks = self._stream()

    @torch.no_grad()
    def next_frames(self) -> numpy.ndarray:
        """Make the next block, or show the start; returns its frames, uint8 [T H W 3]."""
        if self.unseen is not None:
            x0, self.unseen = self.unseen, None
        else:
            block = next(self.blocks)
            self.cache, x0 = block.cache, block.x0
            self.remembered = self.remembered.add(x0)
        frames, self.past = decoded_frames(self.job.world.codec, x0, self.past)
        return frames[0].cpu().numpy()
