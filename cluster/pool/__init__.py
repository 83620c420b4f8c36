"""Run coordinator, rollout processes, reward processes and evaluations on Ray."""
