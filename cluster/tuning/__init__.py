"""Run scans with Ray Tune."""
