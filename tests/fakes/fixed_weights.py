"""Weights that never change: what an actor rolls out where nobody learns."""

from models.records import Weights


class FixedWeights:
    """A source of weights with one version."""

    def __init__(self, weights: Weights):
        self.weights = weights

    def newer(self, than: int | None) -> Weights | None:
        """The one version, to who has none yet."""
        return self.weights if than is None else None
