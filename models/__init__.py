"""Torch only: networks, cache, flow algebra, the sampler, the tiny world."""
