"""Every container, layout and spelling of weights in which people exchange them: written, read, measured."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.lora_files import merge_adapters, read_adapters
from models.checkpoints.weight_files import stored_tensors
from models.checkpoints.weight_names import to_original
from tests.models.checkpoints.wan_checkpoints import equal, original, weights

STEM = "diffusion_pytorch_model"
Tensors = dict[str, Tensor]
BLOCK = "model._fsdp_wrapped_module.blocks"


def fsdp(tensors: Tensors) -> Tensors:
    """Names of a training run: the network and each block wrapped, blocks by activation checkpoints too."""
    named = original(tensors, "model._fsdp_wrapped_module.{}")
    parts = {name: name.removeprefix(f"{BLOCK}.").split(".", 1) for name in named if name.startswith(BLOCK)}
    inside = "_fsdp_wrapped_module._checkpoint_wrapped_module"
    renamed = {name: f"{BLOCK}.{number}.{inside}.{rest}" for name, (number, rest) in parts.items()}
    return {renamed.get(name, name): tensor for name, tensor in named.items()}


NETWORK_NAMES: dict[str, Callable[[Tensors], Tensors]] = {
    "diffusers": dict,
    "original Wan": original,
    "ComfyUI (`model.diffusion_model.`)": lambda t: original(t, "model.diffusion_model.{}"),
    "another owner (`pipe.dit.`)": lambda t: original(t, "pipe.dit.{}"),
    "FSDP and activation checkpoints": fsdp,
    "`torch.compile`": lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()},
    "peft (`base_layer`), adapters merged": lambda t: {
        f"base_model.model.{name.replace('.attn1.to_q.', '.attn1.to_q.base_layer.')}": tensor
        for name, tensor in t.items()
    },
}


def as_safetensors(path: Path, tensors: Tensors) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def as_torch(path: Path, held: object) -> Path:
    torch.save(held, path)
    return path


def shards(folder: Path, tensors: Tensors, save: Callable, ending: str, index: bool) -> Path:
    folder.mkdir()
    placed, names = {}, list(tensors)
    for i in (1, 2):
        file = f"{STEM}-{i:05d}-of-00002.{ending}"
        part = {name: tensors[name] for name in names[i - 1 :: 2]}
        save(folder / file, part)
        placed |= dict.fromkeys(part, file)
    if index:
        (folder / f"{STEM}.{ending}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def variant(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    as_safetensors(folder / f"{STEM}.fp16.safetensors", tensors)
    return folder


def deeper(folder: Path, tensors: Tensors) -> Path:
    (folder / "checkpoint-500/transformer").mkdir(parents=True)
    as_safetensors(folder / "checkpoint-500/transformer/model.safetensors", tensors)
    return folder


NETWORK_CONTAINERS: dict[str, Callable[[Path, Tensors], Path]] = {
    "`.safetensors`": lambda at, t: as_safetensors(at / "w.safetensors", t),
    "shards with index": lambda at, t: shards(at / "w", t, as_safetensors, "safetensors", True),
    "shards alone": lambda at, t: shards(at / "w", t, as_safetensors, "safetensors", False),
    "`fp16` variant": lambda at, t: variant(at / "w", t),
    "`model.safetensors`, two folders deeper": lambda at, t: deeper(at / "w", t),
    "`.bin` shards with index": lambda at, t: shards(at / "w", t, as_torch, "bin", True),
    "`.pt`, flat": lambda at, t: as_torch(at / "w.pt", t),
    "`.pt`, `generator_ema`": lambda at, t: as_torch(at / "w.pt", {"generator_ema": t, "step": 3}),
    "`.pt` named `.safetensors`": lambda at, t: as_torch(at / "w.safetensors", t),
}

RANK, ALPHA = 2, 8.0
LAYERS = {"blocks.0.attn1.to_q": (24, 24), "blocks.1.ffn.net.2": (24, 32), "condition_embedder.time_proj": (144, 24)}


def matrices() -> dict[str, tuple[Tensor, Tensor]]:
    """Down [rank D_in] and up [D_out rank] of each adapted layer."""
    generator = torch.Generator().manual_seed(5)
    return {
        layer: (torch.randn(RANK, inner, generator=generator), torch.randn(outer, RANK, generator=generator))
        for layer, (outer, inner) in LAYERS.items()
    }


def flat(layer: str) -> str:
    return to_original(layer).replace(".", "_")


def dotted(layer: str) -> str:
    """Kohya's prefix before the block alone, dots behind it."""
    return to_original(layer).replace("blocks.", "blocks_", 1)


LORA_NAMES: dict[str, tuple[str, str, str, Callable[[str], str]]] = {
    "diffusers": ("transformer.{}", "lora_A", "lora_B", str),
    "diffusers before peft (`.lora.down.`)": ("transformer.{}", "lora.down", "lora.up", str),
    "original Wan, ComfyUI, LightX2V": ("diffusion_model.{}", "lora_down", "lora_up", to_original),
    "kohya": ("lora_unet_{}", "lora_down", "lora_up", flat),
    "kohya, dots and underscores": ("lora_unet_{}", "lora_down", "lora_up", dotted),
    "OneTrainer": ("lora_transformer_{}", "lora_down", "lora_up", lambda layer: layer.replace(".", "_")),
    "peft": ("base_model.model.{}", "lora_A", "lora_B", to_original),
    "peft, adapter `style`": ("base_model.model.{}", "lora_A.style", "lora_B.style", to_original),
    "another owner (`pipe.dit.`)": ("pipe.dit.{}", "lora_A.default", "lora_B.default", to_original),
}


def spelled(name: str) -> tuple[Tensors, list[str]]:
    """The matrices under a spelling, and its names of the layers."""
    pattern, down, up, speak = LORA_NAMES[name]
    owners = {layer: pattern.format(speak(layer)) for layer in LAYERS}
    pairs = matrices().items()
    tensors = {f"{owners[layer]}.{down}.weight": pair[0] for layer, pair in pairs}
    tensors |= {f"{owners[layer]}.{up}.weight": pair[1] for layer, pair in pairs}
    return tensors, list(owners.values())


def of_peft(folder: Path, tensors: Tensors, ending: str) -> Path:
    save = as_safetensors if ending == "safetensors" else as_torch
    save(folder / f"adapter_model.{ending}", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return folder


def with_header(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": ALPHA})})
    return path


LORA_CONTAINERS: dict[str, Callable[[Path, Tensors, Tensors], Path]] = {
    "`.safetensors`, no alpha": lambda at, t, alphas: as_safetensors(at / "l.safetensors", t),
    "alpha tensors": lambda at, t, alphas: as_safetensors(at / "l.safetensors", t | alphas),
    "header of diffusers": lambda at, t, alphas: with_header(at / "pytorch_lora_weights.safetensors", t),
    "folder of peft": lambda at, t, alphas: of_peft(at, t, "safetensors"),
    "folder of peft, `.bin`": lambda at, t, alphas: of_peft(at, t, "bin"),
    "`.pt`, whole alphas": lambda at, t, alphas: as_torch(
        at / "l.pt", t | {name: alpha.long() for name, alpha in alphas.items()}
    ),
    "`.pt`, `generator_lora`": lambda at, t, alphas: as_torch(
        at / "l.pt", {"generator_lora": t | {name: ALPHA for name in alphas}, "step": 3}
    ),
}


def network_cell(folder: Path, container: str, name: str) -> str:
    """Write a network, read it, and compare every tensor bit by bit."""
    path = NETWORK_CONTAINERS[container](folder, NETWORK_NAMES[name](weights()))
    return "read" if equal(dict(stored_tensors(path)), weights()) else "WRONG"


def lora_cell(folder: Path, container: str, name: str) -> str:
    """Write a LoRA, merge it, and project the change of each weight on up @ down: its strength."""
    tensors, owners = spelled(name)
    path = LORA_CONTAINERS[container](folder, tensors, {f"{owner}.alpha": torch.tensor(ALPHA) for owner in owners})
    before = weights()
    after = dict(merge_adapters(before.items(), read_adapters(path, "lora")))
    strengths = set()
    for layer, (down, up) in matrices().items():
        whole, change = up @ down, after[f"{layer}.weight"] - before[f"{layer}.weight"]
        strengths.add(round(float((change * whole).sum() / (whole * whole).sum()), 3))
        assert torch.allclose(change, max(strengths) * whole, atol=1e-4)
    untouched = [name for name in before if name.removesuffix(".weight") not in LAYERS]
    assert len(strengths) == 1 and all(torch.equal(after[name], before[name]) for name in untouched)
    return f"{strengths.pop():g}"


def table(corner: str, rows: dict, columns: dict, cell: Callable[[str, str], str]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {row} | {' | '.join(cell(column, row) for column in columns)} |" for row in rows]
    return "\n".join(lines)
