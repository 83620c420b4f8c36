"""Configuration schema of a run and the rules between its keys; imports no torch."""
