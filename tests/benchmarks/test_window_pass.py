"""The masked pass and the one block by block compute the same gradients, for the benchmark that compares their time."""

import torch

from benchmarks.measured_network import measured_student
from benchmarks.window_pass import gradient_difference, passes_of


def test_both_passes_over_the_measured_window_give_equal_gradients_in_float64():
    assert gradient_difference(passes_of(measured_student("tiny"), torch.device("cpu"), torch.float64)) < 1e-12
