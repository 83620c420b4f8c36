"""The folder of the original Wan2.1 computes what its twin of diffusers does: embeddings, latents, pixels."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoints.vae_files import open_wan_codec
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.text.umt5 import Umt5
from models.wan.network import Wan
from models.worlds.world_config import WorldConfig
from tests.fakes.original_wan import CONFIG, TEXT_FILE, VAE_FILE, as_for_comfy, save_twins
from tests.models.small_text import TEXT_DIM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> tuple[Path, Path]:
    return save_twins(tmp_path_factory.mktemp("twins"))


def embeddings(path: Path) -> Tensor:
    encoder = Umt5(path, TEXT_DIM, CONFIG.text_len, CPU, torch.float32)
    return torch.cat([one.rows for one in encoder.encode(["a cat walks on grass", "a dog"])])


def computed(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, latents of a step from fixed noise, their pixels, and these pixels encoded again."""
    keys = WorldConfig()
    texts = embeddings(keys.world_folder("text_encoder", folder))
    with torch.random.fork_rng():
        network = Wan(CONFIG)
    load_weights(network, folder, "checkpoint")
    noise = torch.randn(1, 2, 16, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latents = noise - network(noise, torch.tensor([500.0]), texts[None])
    codec = open_wan_codec(keys.world_folder("vae", folder), 16, CPU, torch.float32)
    pixels, _ = codec.decode(latents)
    return texts, latents, pixels, codec.encode(pixels)


def test_both_layouts_give_the_same_embeddings_latents_and_pixels(twins):
    for ours, theirs in zip(computed(twins[0]), computed(twins[1]), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 and ours.std() > 1e-3


def test_vae_and_encoder_are_read_from_their_files_too(twins, tmp_path):
    pixels = {}
    comfy_vae, comfy_text = as_for_comfy(twins[1], tmp_path / "comfy")
    expected = embeddings(twins[0])
    for path in (twins[1] / TEXT_FILE, comfy_text, comfy_text.parent, twins[1]):
        assert torch.equal(embeddings(path), expected), path
    latents = torch.randn(1, 2, 16, 2, 2, generator=torch.Generator().manual_seed(1))
    for path in (twins[0], twins[0] / "vae", twins[1] / VAE_FILE, comfy_vae, comfy_vae.parent):
        pixels[path] = open_wan_codec(path, 16, CPU, torch.float32).decode(latents)[0]
    assert all(torch.equal(one, pixels[twins[0]]) for one in pixels.values())


@pytest.mark.parametrize("channels", [48, 8])
def test_a_vae_of_another_release_is_refused_by_its_latents(tmp_path, channels):
    first = torch.zeros(4, 12 if channels == 48 else 3, 3, 3, 3)
    tensors = {"encoder.conv1.weight": first, "conv2.weight": torch.zeros(channels, channels, 1, 1, 1)}
    torch.save(tensors, tmp_path / "Wan2.2_VAE.pth")
    with pytest.raises(ConfigError) as error:
        open_wan_codec(tmp_path, 16, CPU, torch.float32)
    assert error.value.key == "vae" and ("Wan2.2" if channels == 48 else " 8 ") in error.value.problem


def test_an_original_file_that_lacks_a_tensor_or_its_tokenizer_is_refused_by_name(twins, tmp_path):
    lost = torch.load(twins[1] / VAE_FILE, weights_only=True)
    del lost["decoder.middle.0.residual.2.bias"]
    torch.save(lost, tmp_path / VAE_FILE)
    with pytest.raises(ConfigError) as error:
        open_wan_codec(tmp_path, 16, CPU, torch.float32)
    assert error.value.key == "vae" and "decoder.mid_block.resnets.0.conv1.bias" in error.value.problem
    (tmp_path / TEXT_FILE).symlink_to(twins[1] / TEXT_FILE)
    with pytest.raises(ConfigError) as error:
        embeddings(tmp_path)
    assert error.value.key == "text_encoder" and "google/umt5-xxl" in error.value.problem
