"""The Wan diffusion transformer and VAE in torch; module names are those of diffusers."""
