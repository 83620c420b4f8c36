"""Recognise by their tensors the weights that are known and not served, and say what to give instead."""

import re
from collections.abc import Mapping
from pathlib import Path

from models.checkpoints.safetensors_files import Stored
from models.checkpoints.weight_containers import UNQUANTIZED
from models.errors import ConfigError

_TEXT_TO_VIDEO = "give the checkpoint of Wan2.1-T2V of the same size"
_NETWORKS = (
    (r"(?:^|\.)vace_", "is a VACE network", _TEXT_TO_VIDEO),
    (r"\.memory_[kqvo]\b", "has the memory of a two-expert network", _TEXT_TO_VIDEO),
    (r"(?:^|\.)(?:img_emb|image_embedder)\.|\.(?:k_img|v_img|add_k_proj|add_v_proj)\.", "is an image-to-video network",
     _TEXT_TO_VIDEO),
    (r"(?:^|\.)(?:control_adapter|ref_conv|face_adapter|motion_encoder|audio_proj)\.", "is a network with controls",
     _TEXT_TO_VIDEO),
    (r"\.(?:scale_weight|weight_scale|scale_input)$", "holds fp8-scaled or quantized weights", UNQUANTIZED),
    (r"(?:^|\.)token_embedding\.weight$|(?:^|\.)encoder\.block\.\d", "is a text encoder",
     "write text_encoder=, and give the transformer here"),
    (r"^(?:encoder|decoder)\.(?:conv1|conv_in|middle|mid_block)\.", "is a VAE",
     "write vae=, and give the transformer here"),
)  # fmt: skip
"""Name of a tensor, the network that has such, and what to take instead."""
_CHANNELS = {
    36: ("is an image-to-video network", _TEXT_TO_VIDEO),
    48: ("is Wan2.2-TI2V-5B, whose VAE is another", "give Wan2.1-T2V-1.3B or -14B"),
}
"""Networks by the input channels of their patches."""

_ADAPTERS = (
    (r"\.dora_scale$|lora_magnitude_vector", "DoRA"),
    (r"\.lokr_", "LoKr"),
    (r"\.hada_", "LoHa"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.ia3_", "IA3"),
    (r"\.lora_mid\.", "LoCon with a middle matrix"),
    (r"\.lora_(?:B|up)(?:\.\w+)?\.bias$", "LoRA with biases of its own (lora_bias)"),
    (r"modules_to_save", "LoRA with whole modules (modules_to_save)"),
)
"""Name of a tensor, and the kind of adapters that has such."""
_IMAGE = re.compile(r"(?:k_img|v_img|add_k_proj|add_v_proj|img_emb|image_embedder)")
_OF_ADAPTER = re.compile(r"\.(?:lora_[AB]|lora_down|lora_up|lora\.down|lora\.up)\b|\.alpha$")


def refuse_foreign_network(stored: Mapping[str, Stored], path: Path, key: str) -> None:
    """Reject a network of a known kind that ours is not, and what is no network (ConfigError, naming `key`)."""
    for pattern, kind, fix in _NETWORKS:
        if (name := _first(pattern, stored)) is not None:
            raise ConfigError(key, path, f"{kind} (by {name})", fix)
    for name, held in stored.items():
        if name.endswith("patch_embedding.weight") and len(held.shape) > 1 and held.shape[1] in _CHANNELS:
            kind, fix = _CHANNELS[held.shape[1]]
            raise ConfigError(key, path, f"{kind} (its patches have {held.shape[1]} channels)", fix)
    if stored and all(map(is_of_adapter, stored)):
        problem = f"holds adapters ({len(stored)} tensors of LoRA) and no network"
        raise ConfigError(key, path, problem, f"give the base network as {key}, and this file as lora=")


def refuse_foreign_adapters(names: Mapping[str, object], path: Path, key: str) -> None:
    """Reject adapters of another kind than LoRA, and those of image-to-video networks (ConfigError)."""
    for pattern, kind in _ADAPTERS:
        if (name := _first(pattern, names)) is not None:
            raise ConfigError(key, path, f"is {kind} (by {name}), which is not merged here", "give a plain LoRA")
    image = [name for name in names if _IMAGE.search(name)]
    if image:
        problem = f"is a LoRA of an image-to-video network (by {image[0]})"
        raise ConfigError(key, path, problem, "give the text-to-video file of the same release")


def is_of_adapter(name: str) -> bool:
    """Return whether a tensor belongs to an adapter, by its name."""
    return bool(_OF_ADAPTER.search(name))


def _first(pattern: str, names: Mapping[str, object]) -> str | None:
    found = re.compile(pattern)
    return next((name for name in names if found.search(name)), None)
