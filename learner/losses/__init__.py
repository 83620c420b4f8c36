"""Compute losses and advantages by pure functions of tensors."""
