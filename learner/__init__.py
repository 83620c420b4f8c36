"""What turns windows into better weights: replay, losses, optimisers, checkpoints."""
