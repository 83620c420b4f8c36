"""Score videos: video in, table out."""
