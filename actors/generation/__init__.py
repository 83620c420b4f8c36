"""Generate videos for people: plan files, stream latents, decode, write."""
