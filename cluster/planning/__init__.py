"""Plan a run: memory, FLOPs, placement, pool size and the simulator; no Ray."""
