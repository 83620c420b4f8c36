"""Folders with a random CLIP, DINO or DINOv2 that is small and in the format of transformers."""

from pathlib import Path

import torch
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

SIDE = 32
_SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
_SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def save_clip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    text = _SMALL | {"vocab_size": len(pieces), "intermediate_size": 24, "max_position_embeddings": 20,
                     "eos_token_id": len(pieces) - 1, "bos_token_id": len(pieces) - 2}  # fmt: skip
    vision = _SMALL | {"image_size": SIDE, "patch_size": 16, "intermediate_size": 24}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    CLIPModel(config).eval().save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(**_SIZES).save_pretrained(folder)
    return folder


def save_dino(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = ViTConfig(**_SMALL, image_size=SIDE, patch_size=16, intermediate_size=24)
    ViTModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**_SMALL, image_size=SIDE, patch_size=16)).eval().save_pretrained(folder)
    BitImageProcessor(**_SIZES).save_pretrained(folder)
    return folder
