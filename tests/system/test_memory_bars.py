"""The true 1.3B network on a CPU: what generating and an update of adapters may hold at most."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from models.checkpoints.config_json import write_config
from models.network_config import WAN_1_3B
from tests.fakes.measured_child import peak_bytes, save_random_weights
from tests.models.small_text import save_text_encoder

FILE = "diffusion_pytorch_model.safetensors"


@pytest.mark.proof
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_33_frames_of_1_3b_in_bfloat16_fit_6_5_gb(stored, tmp_path):
    save_random_weights(WAN_1_3B, tmp_path / "wan/transformer" / FILE, stored)
    (tmp_path / "wan/transformer/config.json").write_text(write_config(WAN_1_3B, original=False))
    AutoencoderKLWan().to(torch.bfloat16).save_pretrained(tmp_path / "wan/vae")
    save_text_encoder(tmp_path / "wan", width=WAN_1_3B.text_dim)
    held = peak_bytes(
        WAN_1_3B, "generate.py", "preset=wan_1_3b", f"checkpoint={tmp_path}/wan", "prompt=a cat walks", "height=128",
        "width=128", "seconds=2.0625", "device=cpu", "dtype=bfloat16", f"text_cache={tmp_path}/text",
        f"out={tmp_path}/x.mp4",
    )  # fmt: skip
    print(f"{stored}: {held / 1e9:.2f} GB")
    assert (tmp_path / "x.mp4").stat().st_size and held < 6.5e9


@pytest.mark.proof
def test_an_update_of_critic_and_student_of_1_3b_by_adapters_fits_24_gb(tmp_path):
    weights = save_random_weights(WAN_1_3B, tmp_path / "w.safetensors", torch.bfloat16)
    held = peak_bytes(WAN_1_3B, "tests/fakes/lora_update.py", str(weights))
    print(f"{held / 1e9:.2f} GB")
    assert held < 24e9
