"""Load CLIP, DINO and DINOv2 from local folders of transformers, and encode pictures and texts as unit vectors."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from models.checkpoints.hub import weights_path
from models.errors import ConfigError
from models.fingerprint import file_digest

_FIX = "name a folder that save_pretrained wrote, with safetensors and the preprocessor"


class ImageEncoder:
    """Encodes pictures by the class token of a vision transformer, or by a CLIP's projection; a CLIP encodes texts too.

    Raises OSError, ValueError and others of transformers where the folder cannot be loaded; downloads nothing.
    """

    def __init__(self, folder: Path, device: str):
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        disable_progress_bar()
        try:
            network, report = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        finally:
            enable_progress_bar()  # it would hide the hub's downloads too
        missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]  # which nothing reads
        if missing:
            raise ValueError(f"weights are missing: {', '.join(sorted(missing)[:4])}")
        self.network = network.to(device).eval().requires_grad_(False)
        self.tokenizer = None
        if isinstance(network, CLIPModel):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.device, self.digest = device, _folder_digest(folder)

    def prepare(self, pixels: numpy.ndarray) -> Tensor:
        """Resize, crop and normalise a picture [H W 3] uint8 to [3 h w] as the encoder expects it."""
        return self.processor(images=[pixels], return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode prepared pictures as unit vectors [N D] on the CPU."""
        pixels = torch.stack(list(pictures)).to(self.device)
        if isinstance(self.network, CLIPModel):
            pooled = self.network.vision_model(pixel_values=pixels).pooler_output
            return normalize(self.network.visual_projection(pooled), dim=-1).cpu()
        return normalize(self.network(pixel_values=pixels).last_hidden_state[:, 0], dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, text: str) -> Tensor:
        """Encode a prompt as a unit vector [D] on the CPU; what is longer than the network's 77 tokens is cut."""
        length = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer([text], truncation=True, max_length=length, return_tensors="pt").to(self.device)
        pooled = self.network.text_model(**tokens).pooler_output
        return normalize(self.network.text_projection(pooled)[0], dim=-1).cpu()


_path = lru_cache(weights_path)
"""Finds weights of the hub once in each process, which asks it for what its cache may lack."""
_load = lru_cache(maxsize=4)(ImageEncoder)
"""Loads an encoder once in each process."""


def image_encoder(folder: str, key: str, device: str) -> ImageEncoder:
    """Load an encoder of pictures, once in each process. Raises ConfigError under `key`."""
    path = _path(folder, key)
    if not path.is_dir():  # transformers would take it for the name of a repository
        raise ConfigError(key, folder, "there is no such folder", _FIX)
    try:
        return _load(path.absolute(), device)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigError(key, folder, f"cannot be loaded ({' '.join(str(error).split())})", _FIX) from error


def text_encoder(folder: str, key: str, device: str) -> ImageEncoder:
    """Load an encoder of pictures and texts, once in each process. Raises ConfigError under `key`."""
    encoder = image_encoder(folder, key, device)
    if encoder.tokenizer is None:
        raise ConfigError(key, folder, f"{type(encoder.network).__name__} does not encode texts", "name a CLIP")
    return encoder


def _folder_digest(folder: Path) -> str:
    """Compute the SHA-256 over the settings and weights of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
