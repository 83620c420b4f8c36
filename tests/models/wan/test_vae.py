"""The VAE as a stream equals the VAE at once."""

import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.checkpoints.vae_files import open_wan_codec
from models.errors import ConfigError
from models.wan.vae import WanCodec, lay_channels_last
from models.worlds.video_codec import TinyCodec, image_latent, video_frames, window_image_latents
from tests.fakes.small_world import small_vae

VAE = small_vae()
CODEC = WanCodec(VAE)
LATENTS = torch.randn(2, 9, 4, 4, 6, generator=torch.Generator().manual_seed(1))


def slowly(latents: torch.Tensor) -> torch.Tensor:
    """What diffusers' pipeline does with a whole video."""
    shape = (1, 4, 1, 1, 1)
    mean = torch.tensor(VAE.config.latents_mean).view(shape)
    std = 1 / torch.tensor(VAE.config.latents_std).view(shape)
    with torch.no_grad():
        sample = VAE.decode(latents.transpose(1, 2) / std + mean).sample
    return (sample.transpose(1, 2) / 2 + 0.5).clamp(0, 1)


WHOLE = slowly(LATENTS)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_decoding_in_any_blocks_equals_decoding_at_once(sizes):
    made, past, first = [], None, 0
    for size in sizes:
        block = LATENTS[:, first : first + size]
        if block.shape[1]:
            pixels, past = CODEC.decode(block, past)
            made.append(pixels)
        first += size
    video = torch.cat(made, dim=1)
    assert video.shape[1] == video_frames(CODEC, min(first, 9))
    assert WHOLE.std() > 0.02
    torch.testing.assert_close(video, WHOLE[:, : video.shape[1]], rtol=0, atol=1e-5)


def test_a_decoder_with_channels_last_keeps_them_last_from_block_to_block_and_gives_the_same_video():
    vae, made, past = small_vae(), [], None
    lay_channels_last(vae)
    codec = WanCodec(vae)
    for block in LATENTS.split(3, dim=1):
        pixels, past = codec.decode(block, past)
        made.append(pixels)
    torch.testing.assert_close(torch.cat(made, dim=1), WHOLE, rtol=0, atol=1e-5)
    caches = [x for x in past if isinstance(x, torch.Tensor)]
    last = [x for x in caches if x.is_contiguous(memory_format=torch.channels_last_3d)]
    assert (len(caches), len(last)) == (24, 22), "all but those behind the latents and behind attention"


def test_two_continuations_go_on_from_one_past():
    _, past = CODEC.decode(LATENTS[:, :3])
    CODEC.decode(-LATENTS[:, 3:6], past)
    again, _ = CODEC.decode(LATENTS[:, 3:6], past)
    torch.testing.assert_close(again, WHOLE[:, 9:21], rtol=0, atol=1e-5)


def test_encoding_is_the_mean_of_the_distribution_in_units_of_the_network():
    video = WHOLE[:, :9]
    with torch.no_grad():
        raw = VAE.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mean.transpose(1, 2)
    mean, std = (torch.tensor(v).view(4, 1, 1) for v in (VAE.config.latents_mean, VAE.config.latents_std))
    encoded = CODEC.encode(video)
    assert encoded.shape == (2, 3, 4, 4, 6)
    torch.testing.assert_close(encoded, (raw - mean) / std, rtol=1e-5, atol=1e-5)


def test_the_image_latent_of_a_video_is_its_last_frame_encoded_as_a_first_one():
    expected = CODEC.encode(WHOLE[:, 20:21])
    torch.testing.assert_close(image_latent(CODEC, LATENTS[:, :6]), expected, rtol=1e-4, atol=1e-5)
    _, past = CODEC.decode(LATENTS[:, :4])
    torch.testing.assert_close(image_latent(CODEC, LATENTS[:, 4:6], past), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=8)
@given(start=st.integers(1, 7), carried=st.integers(1, 7))
def test_a_window_opens_with_its_own_first_frame_shown_at_once_and_encoded_as_an_image(start, carried):
    """Both videos go on from the first's frames; the decoder knows no more of the past than the window carries."""
    before = LATENTS[0, max(0, start - carried) : start]
    made = window_image_latents(CODEC, before, LATENTS[:, start])
    for member in range(2):
        shown = slowly(torch.cat([before, LATENTS[member, start : start + 1]])[None])
        expected = CODEC.encode(shown[:, -1:])[0, 0]
        torch.testing.assert_close(made[member], expected, rtol=1e-4, atol=1e-5)
    assert (made - LATENTS[:, start]).abs().max() > 0.1 and (made[0] - made[1]).abs().max() > 1e-3


def test_a_video_and_all_frames_of_the_tiny_world_open_with_themselves():
    assert window_image_latents(CODEC, LATENTS[0, :0], LATENTS[:, 0]) is None
    assert window_image_latents(TinyCodec(), LATENTS[0, :3], LATENTS[:, 3]) is None


def test_frames_that_are_no_first_frame_and_groups_of_four_are_refused():
    with pytest.raises(ValueError, match=r"\b4\b.*\b4\b"):
        CODEC.encode(WHOLE[:, :4])


@pytest.mark.parametrize("inner", ["", "vae"])
def test_a_codec_comes_from_a_diffusers_folder_bit_by_bit(inner, tmp_path):
    VAE.save_pretrained(tmp_path / inner)
    codec = open_wan_codec(tmp_path, 4, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(codec.decode(LATENTS[:, :2])[0], CODEC.decode(LATENTS[:, :2])[0], rtol=0, atol=0)
    assert (codec.channels, codec.time_stride, codec.space_stride) == (4, 4, 8)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def broken(tmp_path, how):
    VAE.save_pretrained(tmp_path)
    weights, config = tmp_path / WEIGHTS, tmp_path / "config.json"
    if how == "lost":
        tensors = load_file(weights)
        tensors.pop("decoder.conv_in.weight")
        save_file(tensors, weights)
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "absent":
        weights.unlink()
    elif how == "resized":
        save_file(load_file(weights) | {"decoder.conv_in.bias": torch.zeros(3)}, weights)
    elif how == "foreign":
        config.write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    elif how == "garbled":
        config.write_text("{")
    elif how == "listed":
        config.write_text("[]")
    elif how in ("short", "infinite"):
        mean = [0.0] * 3 if how == "short" else [0.0] * 3 + [math.inf]
        config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": mean}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lost", "decoder.conv_in.weight"),
        ("truncated", ""),
        ("absent", ""),
        ("resized", "decoder.conv_in.bias"),
        ("foreign", "Wan2.1"),
        ("garbled", "vae/config.json"),
        ("listed", "Wan2.1"),
        ("short", "latents_mean"),
        ("infinite", "latents_mean"),
    ],
)
def test_a_folder_that_is_no_whole_vae_is_refused_in_one_line(how, said, tmp_path):
    broken(tmp_path, how)
    with pytest.raises(ConfigError) as error:
        open_wan_codec(tmp_path, 4, torch.device("cpu"), torch.float32)
    assert error.value.key == "vae" and error.value.value in (tmp_path, tmp_path / WEIGHTS)
    assert said in error.value.problem and "\n" not in str(error.value)


def test_a_vae_of_other_channels_than_the_network_is_refused(tmp_path):
    VAE.save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as error:
        open_wan_codec(tmp_path, 16, torch.device("cpu"), torch.float32)
    assert error.value.key == "vae" and re.findall(r"\b(?:4|16)\b", error.value.problem) == ["4", "16"]
