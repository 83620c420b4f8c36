import torch
from hypothesis import settings

torch.set_num_threads(1)

# A first example that imports or compiles is slow; how long an example takes is no law of ours.
settings.register_profile("longtake", deadline=None)
settings.load_profile("longtake")
