"""Optical flow engines and measures of motion."""
