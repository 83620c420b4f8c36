"""Provide a small student, and a source of its versions for actors."""

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


class FakeWeightSource:
    """Publishes a new version every `blocks_per_version` polls, and counts the polls."""

    def __init__(self, blocks_per_version: int | None = None):
        self.blocks_per_version, self.polls = blocks_per_version, 0

    def newer(self, than: int | None) -> Weights | None:
        version = 0 if self.blocks_per_version is None else self.polls // self.blocks_per_version
        self.polls += 1
        return weights(version) if than is None or version > than else None
