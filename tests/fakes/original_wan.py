"""A small random world in both layouts: a folder of diffusers, and its twin with the files of the original code."""

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.conversion import write_checkpoint
from models.checkpoints.formats import open_checkpoint
from models.network_config import WanConfig
from models.worlds.random_wan import random_vae, save_random_wan
from tests.models.small_text import TEXT_DIM

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=TEXT_DIM, text_len=12,
    freq_dim=16, ffn_dim=32, num_layers=2,
)  # fmt: skip
VAE_FILE, TEXT_FILE = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"

_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_VAE = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"mid_block\.attentions\.0\.", "middle.1."),
    (r"mid_block\.resnets\.(\d)\.(\w+)", lambda m: f"middle.{2 * int(m[1])}.{_RESIDUAL[m[2]]}"),
    (r"down_blocks\.(\d+)\.(norm\d|conv\d)\.", lambda m: f"downsamples.{m[1]}.{_RESIDUAL[m[2]]}."),
    (r"down_blocks\.(\d+)\.", r"downsamples.\1."),
    (r"up_blocks\.(\d)\.resnets\.(\d)\.(norm\d|conv\d)\.",
     lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}.{_RESIDUAL[m[3]]}."),
    (r"up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"upsamples.{4 * int(m[1]) + 3}."),
    (r"conv_shortcut", "shortcut"),
)  # fmt: skip
_TEXT = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.(\d+)\.layer\.", r"blocks.\1."),
    (r"\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.0\.SelfAttention\.", ".attn."),
    (r"\.0\.layer_norm\.", ".norm1."),
    (r"\.1\.layer_norm\.", ".norm2."),
    (r"\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
)


def renamed(tensors: dict[str, Tensor], rules: tuple) -> dict[str, Tensor]:
    """The tensors under their original names, by rules of our own."""
    names = {}
    for name in tensors:
        new = name
        for pattern, by in rules:
            new = re.sub(pattern, by, new)
        names[name] = new
    assert len(set(names.values())) == len(names)
    return {names[name]: tensor for name, tensor in tensors.items()}


def save_twins(folder: Path) -> tuple[Path, Path]:
    """Folders of diffusers and of the original code with the same weights."""
    diffusers, original = folder / "Wan2.1-Diffusers", folder / "Wan2.1"
    vae = random_vae(4)
    save_random_wan(diffusers, CONFIG, vae)
    made = open_checkpoint(diffusers / "transformer", "path")
    write_checkpoint(made, CONFIG, original, original=True, shard_bytes=1 << 30)
    torch.save(renamed(dict(vae.state_dict()), _VAE), original / VAE_FILE)
    torch.save(renamed(load_file(diffusers / "text_encoder/model.safetensors"), _TEXT), original / TEXT_FILE)
    shutil.copytree(diffusers / "tokenizer", original / "google/umt5-xxl")
    return diffusers, original


def as_for_comfy(original: Path, folder: Path) -> tuple[Path, Path]:
    """VAE in original names and encoder in those of transformers, each one safetensors file, tokenizer beside it."""
    folder.mkdir()
    vae, text = folder / "wan_2.1_vae.safetensors", folder / "umt5_xxl_fp16.safetensors"
    save_file(torch.load(original / VAE_FILE, weights_only=True), vae)
    twin = original.with_name("Wan2.1-Diffusers")
    tokenizer = {"spiece_model": torch.zeros(8, dtype=torch.uint8)}
    save_file(load_file(twin / "text_encoder/model.safetensors") | tokenizer, text)
    shutil.copytree(twin / "tokenizer", folder / "tokenizer")
    return vae, text
