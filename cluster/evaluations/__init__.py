"""Evaluate the student while it trains: fixed videos, their curves, the best weights."""
