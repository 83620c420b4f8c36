"""Compute optical flow and measures of motion."""
