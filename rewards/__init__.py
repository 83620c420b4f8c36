"""Video in, numbers out."""
