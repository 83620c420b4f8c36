"""Coordinator, rollout processes and reward processes on Ray."""
