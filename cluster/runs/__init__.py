"""Run folder, logs, trace, checkpoints and training data of a run; no Ray."""
