"""Collectives, FSDP2 sharding and micro-batches of the learner ranks."""
