"""Scans with Ray Tune."""
