"""A random text encoder in a diffusers folder, of the width that small networks read."""

from pathlib import Path

from models.worlds.random_wan import random_encoder, word_tokenizer

TEXT_DIM = 16


def save_text_encoder(folder: Path, seed: int = 0, width: int = TEXT_DIM) -> Path:
    """`folder` with text_encoder/ and tokenizer/."""
    tokenizer = word_tokenizer()
    random_encoder(width, len(tokenizer), seed).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder
