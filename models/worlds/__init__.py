"""Encode text and pixels for the networks: the tiny world or Wan's."""
