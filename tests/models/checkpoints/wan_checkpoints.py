"""Small random checkpoints in every format, written as their own tools write them, and how one is refused."""

import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.weight_files import check_weights, load_weights, save_weights
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.network_config import WanConfig
from models.wan.network import Wan

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
    ffn_dim=32, num_layers=2,
)  # fmt: skip
FIELDS = {name: value for name, value in asdict(CONFIG).items() if name != "text_len"}
ORIGINAL_CONFIG = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 24, "eps": 1e-06, "ffn_dim": 32, "freq_dim": 16,
    "in_dim": 2, "model_type": "t2v", "num_heads": 2, "num_layers": 2, "out_dim": 2, "text_len": 512, "text_dim": 8,
}  # fmt: skip
WHOLE = "diffusion_pytorch_model.safetensors"


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Of a network every number of which is random: norms of one and biases of zero would hide a swap."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Wan(CONFIG).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).mul(0.3).to(dtype) for name, shape in shapes.items()}


def original(tensors: dict[str, Tensor], wrapped: str = "{}") -> dict[str, Tensor]:
    return OrderedDict((wrapped.format(to_original(name)), tensor) for name, tensor in tensors.items())


def as_trained_by_fsdp(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that EMA of Self-Forcing is saved under: each block wrapped, and checkpointed, by itself."""
    named = {}
    for name, tensor in original(tensors).items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            name = f"blocks.{number}._fsdp_wrapped_module._checkpoint_wrapped_module.{rest}"
        named[f"model._fsdp_wrapped_module.{name}"] = tensor
    return named


def write_diffusers(folder: Path, tensors: dict[str, Tensor], **options) -> Path:
    """A folder as diffusers itself writes it."""
    network = WanTransformer3DModel(**FIELDS)
    network.load_state_dict(tensors, strict=True)
    network.to(next(iter(tensors.values())).dtype).save_pretrained(folder, **options)
    return folder


def write_sharded(folder: Path, tensors: dict[str, Tensor], config: dict | None) -> Path:
    folder.mkdir(parents=True)
    names, index = list(tensors), {}
    for i, part in enumerate((names[::3], names[1::3], names[2::3]), 1):
        file = f"diffusion_pytorch_model-{i:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        index |= {name: file for name in part}
    (folder / f"{WHOLE}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_original_folder(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file(original(tensors), folder / WHOLE)
    (folder / "config.json").write_text(json.dumps(ORIGINAL_CONFIG))
    return folder


def saved(path: Path, held: object) -> Path:
    torch.save(held, path)
    return path


def safe(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


def ours(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_weights(tensors, path, {"seed": 0})
    return path


def pipeline(folder: Path, tensors: dict[str, Tensor]) -> Path:
    write_diffusers(folder / "transformer", tensors, max_shard_size="20KB")
    for other in ("vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / other).mkdir()
    return folder


def self_forcing(tensors: dict[str, Tensor], **beside) -> dict:
    others = {"critic": original(weights(7), "model.{}"), "step": 600, **beside}
    return {"generator": original(tensors, "model.{}"), **others}


FORMATS = {
    "our own file": lambda at, w: ours(at / "student.safetensors", w),
    "folder of diffusers": lambda at, w: pipeline(at / "Wan2.1-T2V-Diffusers", w),
    "transformer of diffusers, one file": lambda at, w: write_diffusers(at / "transformer", w),
    "transformer of diffusers, shards": lambda at, w: write_diffusers(at / "t", w, max_shard_size="20KB"),
    "index of shards": lambda at, w: write_diffusers(at / "t", w, max_shard_size="20KB") / f"{WHOLE}.index.json",
    "original folder": lambda at, w: write_original_folder(at / "Wan2.1-T2V", w),
    "original shards": lambda at, w: write_sharded(at / "Wan2.1-T2V", original(w), ORIGINAL_CONFIG),
    "original shards without config.json": lambda at, w: write_sharded(at / "Wan2.1-T2V", original(w), None),
    "original file": lambda at, w: safe(at / "wan.safetensors", original(w)),
    "file for ComfyUI": lambda at, w: safe(at / "wan.safetensors", original(w, "model.diffusion_model.{}")),
    "file of a compiled network": lambda at, w: safe(at / "w.safetensors", {f"_orig_mod.{n}": t for n, t in w.items()}),
    "Self-Forcing, generator": lambda at, w: saved(at / "ode_init.pt", self_forcing(w)),
    "Self-Forcing, EMA": lambda at, w: saved(
        at / "self_forcing_dmd.pt", self_forcing(weights(8), generator_ema=original(w, "model.{}"))
    ),
    "Self-Forcing, EMA of one's own": lambda at, w: saved(
        at / "model.pt", self_forcing(weights(8), generator_ema=as_trained_by_fsdp(w))
    ),
    "CausVid": lambda at, w: saved(
        at / "model.pt", {"generator": original(w, "model.{}"), "critic": original(weights(7), "model.{}")}
    ),
    "LongLive": lambda at, w: saved(
        at / "longlive_base.pt",
        self_forcing(w, generator_optimizer={"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1}]}),
    ),
    "Causal-Forcing": lambda at, w: saved(at / "causal_forcing.pt", {"generator": original(w, "model.{}")}),
    "Rolling Forcing": lambda at, w: saved(at / "rolling_forcing_dmd.pt", {"generator_ema": as_trained_by_fsdp(w)}),
    "model of a trainer": lambda at, w: saved(at / "model.pth", {"model": original(w), "optimizer": {"lr": 1}}),
    "plain state dict": lambda at, w: saved(at / "plain.pt", OrderedDict(original(w, "_orig_mod.{}"))),
    "plain state dict of diffusers": lambda at, w: saved(at / "plain.pt", dict(w)),
}  # fmt: skip


def empty(config: WanConfig = CONFIG) -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return Wan(config)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )


def refusal(path: Path, part: str | None = None) -> str:
    """Problem with which loading is rejected, before anything was filled; checking rejects with the same."""
    network = empty()
    with pytest.raises(ConfigError) as caught:
        load_weights(network, path, "init", part)
    assert equal(network.state_dict(), empty().state_dict())
    assert caught.value.key == "init"
    message = str(caught.value)
    assert "\n" not in message and path.name in message and len(message) < 700
    with pytest.raises(ConfigError) as again:
        check_weights(path, "init", network, part)
    assert str(again.value) == message
    return caught.value.problem
