"""Checkpoints of a run: their files, the ranks that write them, and the folder of a stage."""
