"""Measure the columns of published benchmarks: VBench's dimensions, and text and identity by image encoders."""
