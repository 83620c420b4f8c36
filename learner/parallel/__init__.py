"""Run learner ranks together: collectives, FSDP2 sharding and micro-batches."""
