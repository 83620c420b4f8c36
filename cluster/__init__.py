"""Run training on one process or on Ray: configuration, planning, supply of windows, pool, weights and tuning."""
