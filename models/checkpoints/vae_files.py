"""Open Wan2.1's VAE from a folder of diffusers or from its original file, or a tiny decoder in its place."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from torch import nn

from models.checkpoints.containers import Content, check_floats, open_content
from models.checkpoints.folders import NETWORK_STEMS, open_weights
from models.checkpoints.original_files import original_file
from models.checkpoints.safetensors_files import Stored
from models.checkpoints.weight_files import shape_misfit
from models.errors import ConfigError
from models.file_kinds import read_text
from models.wan.tiny_decoder import FIRST, MEMORY, TinyDecoder, TinyDecoderCodec
from models.wan.vae import WanCodec

_FIX = "give a diffusers folder of Wan2.1, or its Wan2.1_VAE.pth"
_MOST = 1e6
"""Bound of means and deviations of latents, far above those of any VAE."""
_FIRST, _LATENT = "encoder.conv1.weight", "conv2.weight"
"""Original names of the first convolution [D 3 3 3 3], and of the one behind the latents [C C 1 1 1]."""


def open_wan_codec(path: Path, channels: int, device: torch.device, dtype: torch.dtype) -> WanCodec | TinyDecoderCodec:
    """Open the codec of a folder (or its vae/), or of a file, of TAEHV's tiny decoder too.

    Raises ConfigError unless it has `channels` channels.
    """
    file = path if path.is_file() else None if (path / "vae").is_dir() else original_file(path, "vae")
    if file is None or file.name.startswith(NETWORK_STEMS[0]):
        vae, content = _of_diffusers(path.parent if path.is_file() else path, path, channels)
    else:
        content = open_content(file, "vae", None, ("state_dict",))
        if {FIRST, MEMORY} <= content.stored.keys():
            return _tiny_decoder(file, content, channels, device, dtype)
        vae = _original(file, content)
    if (given := vae.config.z_dim) != channels:
        raise ConfigError("vae", path, f"has latents of {given} channels, the network of {channels}", _FIX)
    tensors = dict(content.tensors())
    if _FIRST in tensors:
        tensors = convert_wan_vae_to_diffusers(tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    if misfit := shape_misfit(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        raise ConfigError("vae", path, f"is no whole VAE of Wan2.1: it {misfit}", "download it again")
    vae.load_state_dict(tensors)
    # Torch's own: that of diffusers warns of modules in float32, of which this VAE has none.
    return WanCodec(nn.Module.to(vae, device, dtype))


def _of_diffusers(folder: Path, path: Path, channels: int) -> tuple[AutoencoderKLWan, Content]:
    """Make the network that config.json describes, and open its weights. Raises ConfigError."""
    inner = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        config = dict(json.loads(read_text(inner / "config.json", "vae")))
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError("vae", path, "holds no readable vae/config.json, nor Wan2.1_VAE.pth", _FIX) from error
    if config.get("_class_name") != "AutoencoderKLWan" or config.get("patch_size") is not None:
        raise ConfigError("vae", path, "is not the VAE of Wan2.1 (AutoencoderKLWan without patches)", _FIX)
    if (given := config.get("z_dim", 16)) != channels:
        raise ConfigError("vae", path, f"has latents of {given} channels, the network of {channels}", _FIX)
    for name in ("latents_mean", "latents_std"):
        values = config.get(name, [0.0] * channels)
        numbers = isinstance(values, list) and all(isinstance(x, int | float) and abs(x) < _MOST for x in values)
        if not numbers or len(values) != channels:
            problem = f"{name} of vae/config.json is not {channels} numbers"
            raise ConfigError("vae", path, problem, "download it again")
    content = open_weights(path if path.is_file() else inner, "vae", None, (), NETWORK_STEMS)
    check_floats(content.stored, path, "vae")
    return _network(config, path), content


def _tiny_decoder(
    file: Path, content: Content, channels: int, device: torch.device, dtype: torch.dtype
) -> TinyDecoderCodec:
    """Open the decoder of a file of TAEHV; its encoder is left out. Raises ConfigError."""
    check_floats(content.stored, file, "vae")
    tensors = {name: tensor for name, tensor in content.tensors() if name.startswith("decoder.")}
    network = TinyDecoder(channels)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if misfit := shape_misfit(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        problem = f"is no tiny decoder of latents of {channels} channels: it {misfit}"
        raise ConfigError("vae", file, problem, "give TAEHV's file for Wan2.1, taew2_1")
    network.load_state_dict(tensors)
    return TinyDecoderCodec(network.to(device, dtype))


def _original(file: Path, content: Content) -> AutoencoderKLWan:
    """Make the network of the sizes in an original file: its code states all else. Raises ConfigError."""
    stored: Mapping[str, Stored] = check_floats(content.stored, file, "vae")
    if not {_FIRST, _LATENT} <= stored.keys():
        raise ConfigError("vae", file, f"is not the VAE of Wan2.1: it lacks {_FIRST} or {_LATENT}", _FIX)
    (width, pixels, *_), latents = stored[_FIRST].shape, stored[_LATENT].shape[0]
    if (pixels, latents) != (3, 16):
        kind = "the VAE of Wan2.2" if latents == 48 else f"a VAE of {pixels} and {latents} channels"
        raise ConfigError("vae", file, f"is {kind}, not that of Wan2.1", _FIX)
    return _network({"base_dim": width}, file)


def _network(config: dict[str, Any], path: Path) -> AutoencoderKLWan:
    try:
        return AutoencoderKLWan.from_config(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ConfigError("vae", path, f"has a config.json of no VAE ({error})", _FIX) from error
