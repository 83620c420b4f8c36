"""Make a Wan of random weights in the format of diffusers: every part of a real one, and no sense in it."""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from string import ascii_letters, digits

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from models.network_config import WanConfig

_WHO = ("a cat", "a dog", "a red car", "a small boat", "a white horse", "an old man")
_DOES = ("walks on grass", "turns in the snow", "comes out of the fog", "waits by the river", "passes a bridge")
PROMPTS = [f"{who} {does}" for who, does in product(_WHO, _DOES)]
"""Prompts in words of the tokenizer."""


def random_transformer(wan: WanConfig, seed: int = 0) -> WanTransformer3DModel:
    """Make a transformer; every weight is random, gates and norms too, so that no swap of two stays hidden."""
    described = {name: value for name, value in asdict(wan).items() if name != "text_len"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = WanTransformer3DModel(**described).eval().requires_grad_(False)
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.5 / wan.dim**0.5 if p.ndim == 2 else 0.3)
    return network


def random_vae(width: int, seed: int = 0) -> AutoencoderKLWan:
    """Make Wan2.1's VAE, all its layers, with channels `width` / 96 of its own and latents of 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKLWan(base_dim=width).eval().requires_grad_(False)


def word_tokenizer() -> T5Tokenizer:
    """Make a tokenizer that knows the words of `PROMPTS`, and reads other text letter by letter."""
    words = dict.fromkeys(" ".join(PROMPTS).split())
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -5.0), ("\u2581", -3.0)]
    letters = [(letter, -4.0) for letter in f"{ascii_letters}{digits}.,;:!?'\"-()"]
    vocabulary = special + [(f"\u2581{word}", -2.0) for word in words] + letters
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def random_encoder(width: int, vocabulary: int, seed: int = 0) -> UMT5EncoderModel:
    """Make an encoder of `vocabulary` tokens into embeddings of `width`."""
    config = UMT5Config(
        vocab_size=vocabulary, d_model=width, d_kv=16, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UMT5EncoderModel(config).eval().requires_grad_(False)


def save_random_wan(folder: Path, wan: WanConfig, vae: AutoencoderKLWan, seed: int = 0) -> None:
    """Write a whole pipeline, as `diffusers.WanPipeline.from_pretrained` reads it, and prompts.txt, into `folder`."""
    tokenizer = word_tokenizer()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=random_encoder(wan.text_dim, len(tokenizer), seed),
        vae=vae,
        scheduler=scheduler,
        transformer=random_transformer(wan, seed),
    )
    pipeline.save_pretrained(folder)
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
