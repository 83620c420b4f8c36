"""Run learner ranks together: collectives, FSDP2 sharding, sequence parallelism and micro-batches."""
