"""A world of Wan's kind that trains on a CPU in seconds: small random networks in a diffusers folder, and prompts."""

from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from models.checkpoints.weight_files import save_weights
from models.network_config import WanConfig
from models.wan.network import Wan
from models.worlds.random_wan import random_transformer, save_random_wan
from tests.models.small_text import TEXT_DIM

NAME = "small_wan"
CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT_DIM, text_len=8,
    freq_dim=16, ffn_dim=32, num_layers=2,
)  # fmt: skip
PROMPTS = [f"a {who} walks on {where}" for who, where in product(("cat", "dog"), ("grass", "a cat", "a dog"))]


def save_small_world(folder: Path) -> Path:
    """`folder` with a whole pipeline of diffusers, network.safetensors and prompts.txt."""
    save_random_wan(folder, CONFIG, small_vae())
    save_weights(small_network(0).state_dict(), folder / "network.safetensors", {})
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return folder


def small_network(seed: int) -> Wan:
    """Every weight random, gates too."""
    with torch.device("meta"):
        network = Wan(CONFIG)
    network.load_state_dict(random_transformer(CONFIG, seed).state_dict(), assign=True)
    return network


def small_vae() -> AutoencoderKLWan:
    """All of Wan2.1's parts, and uneven normalisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
            latents_mean=[-0.7, 0.1, 0.9, 0.0], latents_std=[2.8, 1.4, 0.6, 1.0],
        ).eval()  # fmt: skip


def keys(world: Path, run_dir: Path) -> list[str]:
    """What to type for a run of two updates of each stage in that world."""
    return [
        "preset=smoke", f"student.model={NAME}", f"teacher={world}", f"prompts={world}/prompts.txt",
        f"run_dir={run_dir}", f"text_cache={run_dir}_text", "student.height=4", "student.width=6",
        "student.horizon_frames=6", "student.attention_frames=6", "window.frames=6", "window.burn_in_frames=3",
        "rollout.frames=15", "rollout.windows=4", "dmd.steps=2", "ode.steps=2", "ode.pairs=4", "ode.first_pairs=4",
        "checkpoint.every=1", "grpo.steps=2", "grpo.clip=0.5", "group.frames=6", "group.burn_in_frames=3",
        "reward.window_frames=3", "reward.upsample=1", "reward.terms={continuity:1.0}", "sentinel.frames=6",
        "sentinel.metrics=[exposure_drift]",
    ]  # fmt: skip
