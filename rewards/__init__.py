"""Score videos by rewards."""
