"""Encode prompts: the text encoder UMT5, its embedding cache, and the negative prompt."""
