"""Measure waiting times and resize the rollout pool."""
