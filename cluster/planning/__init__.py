"""Arithmetic of memory, FLOPs, placement and pool size, and the simulator; no Ray."""
