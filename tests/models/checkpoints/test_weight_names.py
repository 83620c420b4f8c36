import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from models.checkpoints.weight_names import adapted_layer, strip_wrappers, to_diffusers, to_original
from models.network_config import WAN_1_3B, WAN_14B
from models.wan.network import Wan

# Name by name as the table of the original code and of diffusers' conversion script has them.
PAIRS = {
    "patch_embedding.weight": "patch_embedding.weight",
    "text_embedding.0.weight": "condition_embedder.text_embedder.linear_1.weight",
    "text_embedding.2.bias": "condition_embedder.text_embedder.linear_2.bias",
    "time_embedding.0.bias": "condition_embedder.time_embedder.linear_1.bias",
    "time_embedding.2.weight": "condition_embedder.time_embedder.linear_2.weight",
    "time_projection.1.weight": "condition_embedder.time_proj.weight",
    "blocks.7.modulation": "blocks.7.scale_shift_table",
    "blocks.29.self_attn.q.weight": "blocks.29.attn1.to_q.weight",
    "blocks.0.self_attn.o.bias": "blocks.0.attn1.to_out.0.bias",
    "blocks.0.self_attn.norm_k.weight": "blocks.0.attn1.norm_k.weight",
    "blocks.0.cross_attn.v.weight": "blocks.0.attn2.to_v.weight",
    "blocks.0.norm3.weight": "blocks.0.norm2.weight",
    "blocks.0.ffn.0.weight": "blocks.0.ffn.net.0.proj.weight",
    "blocks.0.ffn.2.bias": "blocks.0.ffn.net.2.bias",
    "head.head.weight": "proj_out.weight",
    "head.modulation": "scale_shift_table",
    "img_emb.proj.0.weight": "condition_embedder.image_embedder.norm1.weight",
    "img_emb.proj.1.weight": "condition_embedder.image_embedder.ff.net.0.proj.weight",
    "img_emb.proj.3.weight": "condition_embedder.image_embedder.ff.net.2.weight",
    "img_emb.proj.4.bias": "condition_embedder.image_embedder.norm2.bias",
    "blocks.0.cross_attn.k_img.weight": "blocks.0.attn2.add_k_proj.weight",
    "blocks.0.cross_attn.norm_k_img.weight": "blocks.0.attn2.norm_added_k.weight",
}


@pytest.mark.parametrize("original", PAIRS)
def test_each_name_of_the_table_has_its_counterpart_both_ways(original):
    assert to_diffusers(original) == PAIRS[original] and to_original(PAIRS[original]) == original
    assert to_diffusers(PAIRS[original]) == PAIRS[original], "a name of diffusers is no original name"


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B], ids=["1_3b", "14b"])
def test_every_weight_of_wan_has_one_original_name_and_comes_back_from_it(config):
    with torch.device("meta"):
        names = list(Wan(config).state_dict())
    originals = [to_original(name) for name in names]
    assert len(set(originals)) == len(names) and [to_diffusers(name) for name in originals] == names
    assert [name for name, same in zip(names, originals, strict=True) if name == same] == [
        "patch_embedding.weight", "patch_embedding.bias",
    ]  # fmt: skip


def test_the_weights_of_an_image_to_video_network_have_original_names_too():
    with torch.device("meta"):
        network = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=1, image_dim=16, added_kv_proj_dim=24
        )
    added = [name for name in network.state_dict() if "image" in name or "add" in name]
    assert len(added) == 13 and [to_diffusers(to_original(name)) for name in added] == added
    assert all(to_original(name) != name for name in added)


@pytest.mark.parametrize(
    "wrapped",
    [
        "model.{}",
        "model._fsdp_wrapped_module.{}",
        "_orig_mod.{}",
        "module._orig_mod.model.{}",
        "model.diffusion_model.{}",
        "transformer.{}",
        "base_model.model.{}",
        "pipe.dit.{}",
        "unet.{}",
    ],
)
def test_what_wraps_a_network_is_no_part_of_its_names(wrapped):
    for name in PAIRS:
        assert strip_wrappers(wrapped.format(name)) == name


def test_what_wraps_a_block_or_a_layer_is_no_part_of_its_names():
    name = "model._fsdp_wrapped_module.blocks.3._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q.weight"
    assert strip_wrappers(name) == "blocks.3.self_attn.q.weight"
    assert strip_wrappers("blocks.3._orig_mod.ffn.0.bias") == "blocks.3.ffn.0.bias"


@pytest.mark.parametrize("spelling", ["lora_unet_{}", "lora_unet__{}", "lora_transformer_{}", "pipe.dit.{}", "{}"])
def test_a_layer_of_an_adapter_is_known_with_dots_underscores_or_both(spelling):
    for original, ours in PAIRS.items():
        layer, expected = (name.removesuffix(".weight").removesuffix(".bias") for name in (original, ours))
        for name in (layer, expected):
            for spelled in (name, name.replace(".", "_"), name.replace(".", "_", 2)):
                assert adapted_layer(spelling.format(spelled)) == expected, spelled


@pytest.mark.parametrize(
    "name", ["vace_blocks.0.proj_out", "lora_unet_vace_blocks_0_ffn_0", "blocks.0.cross_attn.other"]
)
def test_a_layer_of_another_network_is_no_layer_of_ours(name):
    assert adapted_layer(name) == strip_wrappers(name) == name


@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.weight", "cls_pred_branch.0.weight", "x", "blocks.0.norm1.bias"])
def test_an_unknown_name_is_left_as_it_is(name):
    assert to_diffusers(name) == name and strip_wrappers(name) == name
