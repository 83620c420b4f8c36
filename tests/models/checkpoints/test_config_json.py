import json
import re
from dataclasses import replace

import pytest

from models.checkpoints.config_json import config_misfit, read_config, write_config
from models.errors import ConfigError
from models.network_config import CONFIGS, TINY, WAN_1_3B, WAN_14B

# As they lie beside the published weights.
DIFFUSERS_1_3B = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0", "added_kv_proj_dim": None,
    "attention_head_dim": 128, "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256,
    "image_dim": None, "in_channels": 16, "num_attention_heads": 12, "num_layers": 30, "out_channels": 16,
    "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024, "text_dim": 4096,
}  # fmt: skip
ORIGINAL_14B = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 5120, "eps": 1e-06, "ffn_dim": 13824,
    "freq_dim": 256, "in_dim": 16, "model_type": "t2v", "num_heads": 40, "num_layers": 40, "out_dim": 16,
    "text_len": 512,
}  # fmt: skip


def written(folder, described):
    path = folder / "config.json"
    path.write_text(described if isinstance(described, str) else json.dumps(described))
    return path


def test_the_published_configs_are_the_networks_that_we_know(tmp_path):
    assert read_config(written(tmp_path, DIFFUSERS_1_3B), "x") == WAN_1_3B
    assert read_config(written(tmp_path, ORIGINAL_14B), "x") == WAN_14B
    causal = DIFFUSERS_1_3B | {"_class_name": "CausalWanTransformer3DModel", "local_attn_size": -1}
    assert read_config(written(tmp_path, causal), "x") == WAN_1_3B
    assert json.loads(write_config(WAN_14B, original=True)).items() <= ORIGINAL_14B.items()
    ours = json.loads(write_config(WAN_1_3B, original=False))
    assert {name: ours[name] for name in DIFFUSERS_1_3B if name in ours}.items() <= DIFFUSERS_1_3B.items()


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_each_network_comes_back_from_its_config_in_either_form(tmp_path, name, original):
    config = CONFIGS[name]
    found = read_config(written(tmp_path, write_config(config, original)), "x")
    assert config_misfit(config, found) is None
    assert found == (config if original else replace(config, text_len=512)), "diffusers does not keep the text's length"


def test_the_fields_that_differ_are_named_but_for_the_length_of_texts():
    assert config_misfit(WAN_1_3B, replace(WAN_1_3B, text_len=7)) is None
    misfit = config_misfit(WAN_1_3B, replace(WAN_1_3B, num_layers=2, eps=1.0))
    assert re.findall(r"num_layers|eps|[\d.e-]*\d", misfit) == ["num_layers", "2", "30", "eps", "1.0", "1e-06"]


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("{", "(Expecting"),
        (9999 * "[", "recursion"),
        ('{"eps": 1' + 5000 * "0" + "}", "digits"),
        ("[]", "WanTransformer3DModel"),
        ("{}", "WanTransformer3DModel"),
        (DIFFUSERS_1_3B | {"_class_name": "WanVACETransformer3DModel"}, "WanVACETransformer3DModel"),
        (DIFFUSERS_1_3B | {"added_kv_proj_dim": 5120}, "added_kv_proj_dim=5120"),
        (DIFFUSERS_1_3B | {"ffn_dim": True}, "ffn_dim"),
        (DIFFUSERS_1_3B | {"num_layers": 0}, "num_layers"),
        (DIFFUSERS_1_3B | {"num_layers": 10**400}, "num_layers"),
        (DIFFUSERS_1_3B | {"num_layers": 10**6}, "num_layers"),
        (DIFFUSERS_1_3B | {"patch_size": [1, 10**6, 2]}, "patch_size"),
        (DIFFUSERS_1_3B | {"eps": float("inf")}, "eps"),
        (ORIGINAL_14B | {"ffn_dim": 10**400}, "ffn_dim"),
        (DIFFUSERS_1_3B | {"patch_size": [2, 2]}, "patch_size"),
        (DIFFUSERS_1_3B | {"patch_size": [2, 2, 2]}, " 2"),
        (ORIGINAL_14B | {"model_type": "i2v"}, "model_type=i2v"),
        (ORIGINAL_14B | {"num_heads": 7}, "num_heads=7"),
        ({name: value for name, value in ORIGINAL_14B.items() if name != "in_dim"}, "in_dim"),
    ],
)
def test_a_config_of_no_network_of_ours_is_refused_in_a_line(tmp_path, described, said):
    with pytest.raises(ConfigError) as error:
        read_config(written(tmp_path, described), "teacher")
    assert error.value.key == "teacher" and "\n" not in str(error.value)
    assert "config.json" in error.value.problem and said in error.value.problem


def test_the_tiny_network_says_what_the_original_code_would_take_for_granted():
    assert json.loads(write_config(TINY, original=True))["patch_size"] == [1, 4, 4]
    assert "patch_size" not in json.loads(write_config(WAN_14B, original=True))
