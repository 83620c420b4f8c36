"""A deterministic proxy of Visual Stability, and the synthetic degradations that it is calibrated on."""
