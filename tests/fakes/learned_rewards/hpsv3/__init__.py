"""Has the interface of the package hpsv3: the score of a picture is its mean, less one for a prompt of "dark"."""

import os

import numpy
from PIL import Image


class HPSv3RewardInferencer:
    def __init__(self, config_path=None, checkpoint_path=None, device="cuda"):
        print("loading", checkpoint_path, device)  # as the package does, on standard output
        if checkpoint_path is not None and checkpoint_path.endswith("broken"):
            raise OSError(f"{checkpoint_path} holds no weights")

    def reward(self, prompts, image_paths):
        if prompts[0] == "die":
            os._exit(3)
        if prompts[0] == "sleep":
            import time

            time.sleep(60)
        if prompts[0] == "raise":
            raise ValueError("out of\nmemory")
        means = [numpy.asarray(Image.open(path)).mean() / 255 for path in image_paths]
        return [(mean - (prompt == "dark"), 0.1) for prompt, mean in zip(prompts, means, strict=True)]
