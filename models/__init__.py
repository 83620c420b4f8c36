"""Define networks, cache, flow matching, samplers, checkpoint formats, worlds, records and keys; imports no Ray."""
