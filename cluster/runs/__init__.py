"""Manage a run's folder, logs, trace, checkpoints and training data; no Ray."""
