"""Plan rollouts, validate and buffer windows; no process, no Ray."""
