"""Define the Wan diffusion transformer and VAE in torch, with diffusers' module names."""
