"""Translate names of Wan's weights between the original code and diffusers (ours), with their wrappers."""

import re
from collections.abc import Mapping

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}

_IN_BLOCK = {
    "modulation": "scale_shift_table",
    # The affine norm precedes cross-attention: original code numbers norms by construction, diffusers by use.
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in (_ATTENTION | _IMAGE_ATTENTION).items()},
}
_OUTSIDE = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
}
_FROM_BLOCK = {theirs: ours for ours, theirs in _IN_BLOCK.items()}
_FROM_OUTSIDE = {theirs: ours for ours, theirs in _OUTSIDE.items()}

_NAME = re.compile(r"(blocks\.\d+\.)?(.+?)(\.weight|\.bias)?")
_WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_PREFIXES = re.compile(r"^(?:(?:base_model\.model|diffusion_model|transformer|module|model)\.)+")
_OWNERS = re.compile(
    r"^(?!blocks\.\d)(?:[A-Za-z_]\w*\.)+?(?=blocks\.\d+\.|head\.(?:head|modulation)\b|(?:patch_embedding|proj_out|"
    r"text_embedding|time_embedding|time_projection|condition_embedder|img_emb)\.)"
)
"""Any owners before the first name of the network. One with a number is no owner: vace_blocks.0.proj_out."""


def _flat(names: Mapping[str, str]) -> dict[str, str]:
    """Map names of both spellings, with underscores for dots, to those of diffusers."""
    both = names | {theirs: theirs for theirs in names.values()}
    return {name.replace(".", "_"): theirs for name, theirs in both.items()}


_FLAT_IN_BLOCK, _FLAT_OUTSIDE = _flat(_IN_BLOCK), _flat(_OUTSIDE | {"patch_embedding": "patch_embedding"})
_FLAT_BLOCK = re.compile(rf"(?:\w*(?<!vace)_)?blocks_(\d+)_({'|'.join(_FLAT_IN_BLOCK)})")
_FLAT_OTHER = re.compile(rf"(?:[A-Za-z_]*_)?({'|'.join(sorted(_FLAT_OUTSIDE, key=len, reverse=True))})")


def to_diffusers(name: str) -> str:
    """Return the name in diffusers of an original weight or layer; any other name unchanged."""
    return _translated(name, _IN_BLOCK, _OUTSIDE)


def to_original(name: str) -> str:
    """Return the original name of a weight or layer of diffusers; any other name unchanged."""
    return _translated(name, _FROM_BLOCK, _FROM_OUTSIDE)


def strip_wrappers(name: str) -> str:
    """Remove wrappers (FSDP, activation checkpoints, compile, peft's base_layer) and owners' prefixes from a name."""
    return _OWNERS.sub("", _PREFIXES.sub("", _WRAPPERS.sub("", name).replace(".base_layer.", ".")))


def adapted_layer(name: str) -> str:
    """Return the name in diffusers of the layer that an adapter names: with dots, kohya's underscores, or both."""
    plain = strip_wrappers(name)
    flat = plain.replace(".", "_")
    if match := _FLAT_BLOCK.fullmatch(flat):
        return f"blocks.{match[1]}.{_FLAT_IN_BLOCK[match[2]]}"
    if match := _FLAT_OTHER.fullmatch(flat):
        return _FLAT_OUTSIDE[match[1]]
    return to_diffusers(plain)


def _translated(name: str, in_block: Mapping[str, str], outside: Mapping[str, str]) -> str:
    block, middle, leaf = _NAME.fullmatch(name).groups("")
    return block + (in_block if block else outside).get(middle, middle) + leaf
