"""Run coordinator, rollout processes and reward processes on Ray."""
