"""A diffusers folder with a random text encoder that is small and in the format of Wan2.1."""

from pathlib import Path

import torch
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

WORDS = ["a", "cat", "dog", "walks", "on", "grass"]
TEXT_DIM = 16


def save_text_encoder(folder: Path, seed: int = 0, width: int = TEXT_DIM) -> Path:
    """`folder` with text_encoder/ and tokenizer/."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=40, d_model=width, d_kv=4, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    UMT5EncoderModel(config).eval().save_pretrained(folder / "text_encoder")
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -5.0), ("\u2581", -3.0)]
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz,."]
    vocabulary = special + [(f"\u2581{word}", -2.0) for word in WORDS] + letters
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer")
    return folder
