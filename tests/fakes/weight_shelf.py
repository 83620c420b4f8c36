"""A small student, and a place where actors find versions of it."""

import torch

from models.network_config import StudentConfig
from models.records import Weights
from models.wan.network import Wan

SHAPE = StudentConfig(height=8, width=4, attention_frames=9)


def weights(version: int) -> Weights:
    """Random weights, others for each version, with gates far from their initial values: what a cache holds matters."""
    with torch.random.fork_rng():
        torch.manual_seed(version)
        network = Wan(SHAPE.wan)
        for p in network.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.1 if p.ndim == 2 else 0.3)
        return Weights.of(version, network)


class Shelf:
    """A source of weights that puts out a new version after every so many blocks, and counts how often it is asked."""

    def __init__(self, blocks_per_version: int | None = None):
        self.blocks_per_version, self.asked = blocks_per_version, 0

    def newer(self, than: int | None) -> Weights | None:
        version = 0 if self.blocks_per_version is None else self.asked // self.blocks_per_version
        self.asked += 1
        return weights(version) if than is None or version > than else None
