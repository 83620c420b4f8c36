"""Open UMT5's encoder and tokenizer from a folder of diffusers, or from the files of the original code."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import UMT5Config, UMT5EncoderModel

from models.checkpoints.containers import Content, check_floats
from models.checkpoints.folders import open_weights
from models.checkpoints.original_files import original_file
from models.checkpoints.safetensors_files import Stored
from models.checkpoints.weight_files import shape_misfit
from models.errors import ConfigError
from models.file_kinds import read_text

TOKENIZERS = ("tokenizer.json", "spiece.model")
_STEMS = ("model", "pytorch_model")
_FIX = "give a diffusers folder of Wan2.1, or the original one with models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl"

_IN_BLOCK = {
    "norm1": "0.layer_norm",
    "attn.q": "0.SelfAttention.q",
    "attn.k": "0.SelfAttention.k",
    "attn.v": "0.SelfAttention.v",
    "attn.o": "0.SelfAttention.o",
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "norm2": "1.layer_norm",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
}
"""Name in transformers (behind encoder.block.N.layer.) of each layer of an original block."""
_OUTSIDE = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_TIED = "encoder.embed_tokens.weight"
"""Second name of shared.weight; files hold either."""


@dataclass(frozen=True)
class EncoderFiles:
    """Holds the places of an encoder's weights and tokenizer."""

    weights: Path
    """Folder text_encoder/ of diffusers, or a file."""
    tokenizer: Path

    @property
    def all(self) -> list[Path]:
        """List every file, sorted by name: first weights, then tokenizer."""
        weights = [self.weights] if self.weights.is_file() else sorted(self.weights.iterdir())
        return [path for path in (*weights, *sorted(self.tokenizer.iterdir())) if path.is_file()]


def find_encoder(path: Path, text_dim: int) -> EncoderFiles:
    """Find weights and tokenizer of width `text_dim` in a folder, or beside a file. Raises ConfigError."""
    file = path if path.is_file() else None if (path / "text_encoder").is_dir() else original_file(path, "text_encoder")
    weights = path / "text_encoder" if file is None else file
    folders = (path / "tokenizer",)
    if file is None:
        try:
            config = dict(json.loads(read_text(weights / "config.json", "text_encoder")))
        except ConfigError:
            raise
        except (OSError, ValueError, TypeError, RecursionError) as error:
            problem = "holds no readable text_encoder/config.json, nor models_t5_umt5-xxl-enc-bf16.pth"
            raise ConfigError("text_encoder", path, problem, _FIX) from error
        kind, width = config.get("model_type"), config.get("d_model")
    else:
        folders = (file.parent / "google/umt5-xxl", file.parent / "tokenizer", file.parent.parent / "tokenizer")
        shapes = _open(weights, path)[1]
        kind, width = "umt5", shapes.get("shared.weight", Stored((0, 0), torch.float32)).shape[1]
    if (kind, width) != ("umt5", text_dim):
        problem = f"is {kind} of width {width}, and the network needs umt5 of width {text_dim}"
        raise ConfigError("text_encoder", path, problem, _FIX)
    tokenizer = next((one for one in folders if any((one / name).is_file() for name in TOKENIZERS)), None)
    if tokenizer is None:
        places = " or ".join(folder.relative_to(file.parent.parent if file else path).as_posix() for folder in folders)
        raise ConfigError("text_encoder", path, f"has no {places}/ with {' or '.join(TOKENIZERS)}", _FIX)
    return EncoderFiles(weights, tokenizer)


def load_encoder(files: EncoderFiles, path: Path, dtype: torch.dtype) -> UMT5EncoderModel:
    """Load the network in `dtype`, tensor by tensor. Raises ConfigError, with `path` as given by the user."""
    content, stored = _open(files.weights, path)
    try:
        if files.weights.is_dir():
            config = UMT5Config.from_pretrained(files.weights)
        else:
            config = _config_of({name: held.shape for name, held in stored.items()})
        with torch.device("meta"):
            network = UMT5EncoderModel(config)
    except (OSError, ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        problem = f"cannot be loaded ({' '.join(str(error).split())})"
        raise ConfigError("text_encoder", path, problem, _FIX) from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name != _TIED}
    given = {name: held.shape for name, held in stored.items()}
    if misfit := shape_misfit(expected, given):
        raise ConfigError("text_encoder", path, f"is no whole encoder: it {misfit}", "download it again")
    tensors = {encoder_name(name): tensor.to(dtype) for name, tensor in content.tensors()}
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected}
    network.load_state_dict(tensors | {_TIED: tensors["shared.weight"]}, assign=True)
    return network


def encoder_name(name: str) -> str:
    """Return the name in transformers of an original tensor, or of the tied embedding; any other unchanged."""
    if (match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)) and match[2] in _IN_BLOCK:
        return f"encoder.block.{match[1]}.layer.{_IN_BLOCK[match[2]]}.weight"
    return _OUTSIDE.get(name, "shared.weight" if name == _TIED else name)


def _open(weights: Path, path: Path) -> tuple[Content, dict[str, Stored]]:
    """Open the weights, with their sizes under the names of transformers. Raises ConfigError."""
    content = open_weights(weights, "text_encoder", None, ("state_dict",), _STEMS)
    stored = check_floats(content.stored, path, "text_encoder")
    return content, {encoder_name(name): held for name, held in stored.items()}


def _config_of(shapes: Mapping[str, tuple[int, ...]]) -> UMT5Config:
    """Describe the network of the sizes in a file: the original code states all else."""
    first = "encoder.block.0.layer."
    buckets, heads = shapes[f"{first}0.SelfAttention.relative_attention_bias.weight"]
    vocabulary, width = shapes["shared.weight"]
    return UMT5Config(
        vocab_size=vocabulary, d_model=width, d_kv=shapes[f"{first}0.SelfAttention.q.weight"][0] // heads,
        d_ff=shapes[f"{first}1.DenseReluDense.wi_0.weight"][0], num_heads=heads,
        num_layers=sum(name.endswith(".SelfAttention.q.weight") for name in shapes),
        relative_attention_num_buckets=buckets, feed_forward_proj="gated-gelu",
    )  # fmt: skip
