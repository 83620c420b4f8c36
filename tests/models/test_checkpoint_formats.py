import json
import os
import random
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoint_formats import open_checkpoint
from models.config import WanConfig
from models.files import check_weights, load_weights, save_weights, stored_tensors, verify_weights
from models.wan import Wan
from models.wan_names import to_original

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


@pytest.fixture(params=FORMATS)
def written(request, tmp_path) -> Path:
    return FORMATS[request.param](tmp_path, weights())


def empty(config: WanConfig = CONFIG) -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return Wan(config)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )


def refusal(path: Path, part: str | None = None) -> str:
    """The one line with which loading is refused, before anything was filled; checking refuses with the same."""
    network = empty()
    with pytest.raises(ValueError) as caught:
        load_weights(network, path, "init", part)
    assert equal(network.state_dict(), empty().state_dict())
    message = str(caught.value)
    assert "\n" not in message and "init" in message and path.name in message and len(message) < 700
    with pytest.raises(ValueError) as again:
        check_weights(path, "init", network, part)
    assert str(again.value) == message
    return message


def test_each_format_gives_every_tensor_bit_by_bit_under_the_names_of_diffusers(written):
    assert equal(dict(stored_tensors(written)), weights())
    network = empty()
    load_weights(network, written, "init")
    assert equal(network.state_dict(), weights())


def test_each_format_is_checked_and_described_by_its_headers(written):
    with torch.device("meta"):
        check_weights(written, "init", Wan(CONFIG))
    stored = open_checkpoint(written, "init").stored
    assert {name: (held.shape, held.dtype) for name, held in stored.items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights().items()
    }
    assert list(stored) == [name for name, _ in stored_tensors(written)]


def test_each_format_lacking_a_tensor_is_refused_by_its_name(tmp_path):
    kept = weights()
    gone = kept.pop("blocks.1.norm2.weight")
    assert "lacks blocks.1.norm2.weight;" in refusal(ours(tmp_path / "a.safetensors", kept))
    assert "lacks blocks.1.norm3.weight;" in refusal(safe(tmp_path / "b.safetensors", original(kept)))
    assert "lacks blocks.1.norm3.weight;" in refusal(saved(tmp_path / "c.pt", self_forcing(kept)))
    assert "lacks blocks.1.norm3.weight;" in refusal(write_sharded(tmp_path / "d", original(kept), ORIGINAL_CONFIG))
    message = refusal(saved(tmp_path / "e.pt", self_forcing(kept | {"cls_pred_branch.weight": gone})))
    assert "lacks blocks.1.norm3.weight; it has the unknown cls_pred_branch.weight;" in message


def test_an_image_to_video_checkpoint_is_refused_by_what_it_has_more(tmp_path):
    more = original(weights()) | {
        "img_emb.proj.0.weight": torch.ones(3),
        "blocks.0.cross_attn.k_img.bias": torch.ones(1),
    }
    assert "has the unknown blocks.0.cross_attn.k_img.bias, img_emb.proj.0.weight;" in refusal(
        safe(tmp_path / "i2v.safetensors", more)
    )


def test_other_sizes_are_refused_by_name(tmp_path):
    other = weights() | {"blocks.0.attn1.to_q.weight": torch.ones(23, 24), "proj_out.bias": torch.ones(9)}
    message = refusal(saved(tmp_path / "x.pt", {"generator": original(other, "model.{}")}))
    assert "has other sizes for blocks.0.self_attn.q.weight, head.head.bias;" in message


def test_a_shard_alone_is_refused_by_what_it_lacks(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    assert "lacks" in refusal(next(folder.glob("*-00001-of-*")))


def test_half_precision_comes_as_it_is_stored_and_fills_a_network_of_any_precision(tmp_path):
    half = weights(dtype=torch.bfloat16)
    for path in (write_diffusers(tmp_path / "t", half), saved(tmp_path / "x.pt", {"generator": half})):
        assert equal(dict(stored_tensors(path)), half)
        network = empty()
        load_weights(network, path, "init")
        assert equal(network.state_dict(), {name: tensor.float() for name, tensor in half.items()})


@pytest.mark.parametrize("part", ["generator", "generator_ema", "critic", "generator_at_step_100"])
def test_any_part_of_a_pt_can_be_chosen(tmp_path, part):
    parts = {name: weights(seed) for seed, name in enumerate(["generator", "critic", "generator_ema"])}
    parts["generator_at_step_100"] = weights(5)
    path = saved(tmp_path / "x.pt", {name: original(tensors, "model.{}") for name, tensors in parts.items()})
    network = empty()
    load_weights(network, path, "init", part)
    assert equal(network.state_dict(), parts[part]) and equal(dict(stored_tensors(path, part)), parts[part])


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    assert "has no generator_ema; networks in it: generator, critic;" in refusal(path, "generator_ema")
    nothing = saved(tmp_path / "y.pt", {"student": original(weights()), "step": 3})
    assert "has no generator_ema or generator or model; networks in it: student;" in refusal(nothing)
    file = ours(tmp_path / "w.safetensors", weights())
    assert "leave part=critic out" in refusal(file, "critic")


def test_the_same_weights_under_two_names_are_refused(tmp_path):
    tensors = original(weights()) | {"model.head.head.bias": torch.ones(8)}
    assert "holds proj_out.bias twice, once as model.head.head.bias" in refusal(
        safe(tmp_path / "x.safetensors", tensors)
    )


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_pt_is_refused_by_name_and_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(saved(tmp_path / "x.pt", self_forcing(weights(), config=_Code())))
    assert "holds more than tensors (posix.mkdir), which could run code" in message and not Path("ran").exists()


@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.9, 0.999])
def test_a_truncated_pt_is_refused_wherever_it_ends(tmp_path, kept):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "cannot be read" in refusal(path) or "no plain pickle" in refusal(path)


def test_a_pt_with_any_byte_changed_is_read_or_refused_in_a_line(tmp_path):
    path = saved(tmp_path / "x.pt", {"generator": {"head.head.bias": torch.ones(2)}, "step": 3})
    whole, chosen = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[chosen.randrange(len(whole))] = chosen.randrange(256)
        path.write_bytes(changed)
        try:
            list(stored_tensors(path))
        except ValueError as error:
            assert "\n" not in str(error) and "x.pt" in str(error)
            refused += 1
    assert 30 < refused < 300


@pytest.mark.parametrize(
    "held", [[torch.ones(1)], 3, {}, {"generator": {}}, {0: torch.ones(1)}, {"model": {"step": 3}}]
)
def test_a_pt_without_a_network_is_refused(tmp_path, held):
    message = refusal(saved(tmp_path / "x.pt", held))
    assert "holds a " in message or "networks in it: none" in message


def test_a_pt_of_the_old_format_is_refused_with_the_cure(tmp_path):
    torch.save({"generator": original(weights())}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert "written by torch before 1.6" in refusal(tmp_path / "x.pt")


def test_a_missing_pt_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "x.pt")


def test_a_file_that_is_no_pt_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_quantized_weights_are_refused(tmp_path, kind):
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in original(weights()).items()}
    path = tmp_path / f"x.{kind}"
    assert "float32, bfloat16 or float16" in refusal(saved(path, eight) if kind == "pt" else safe(path, eight))


def test_reading_a_pt_reads_no_tensor_before_it_is_used(tmp_path):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    before = dict(open_checkpoint(path, "init").tensors())
    with path.open("r+b") as file:  # what is mapped shows what is written into the file
        content = path.read_bytes()
        place = content.index(before["proj_out.bias"].numpy().tobytes())
        file.seek(place)
        file.write(bytes(4))
    assert before["proj_out.bias"][0] == 0


def test_a_shard_that_is_missing_is_named(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    gone = sorted(folder.glob("*-0000*"))[1]
    gone.unlink()
    assert f"lacks {gone.name}, which its index names" in refusal(folder)


def test_a_truncated_shard_is_named(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    cut = sorted(folder.glob("*-0000*"))[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{cut.name} is no whole safetensors file"):
        check_weights(folder, "init", empty())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no index of shards"),
        ("[]", "is no index of shards"),
        ('{"weight_map": {"a": 3}}', "names the shard 3"),
        ('{"weight_map": {"a": "../../secret.safetensors"}}', "does not lie beside it"),
    ],
)
def test_a_foreign_index_is_refused(tmp_path, text, said):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / f"{WHOLE}.index.json").write_text(text)
    assert said in refusal(tmp_path / "t")


def test_an_index_that_names_other_tensors_than_the_shards_hold_is_refused(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    file = sorted(folder.glob("*-0000*"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name + "_more"] = tensors.pop(name)
    save_file(tensors, file)
    message = refusal(folder)
    assert f"{name} in {file.name} is only in one of them (2 such tensors)" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 3}, "its config.json has num_layers 3 instead of 2"),
        ({"num_attention_heads": 1, "attention_head_dim": 24}, "num_attention_heads 1 instead of 2"),
        ({"eps": 1e-5}, "eps 1e-05 instead of 1e-06"),
        ({"_class_name": "HunyuanVideoTransformer3DModel"}, "describes HunyuanVideoTransformer3DModel"),
        ({"image_dim": 1280}, "has image_dim=1280"),
        ({"qk_norm": None}, "has qk_norm=None"),
        ({"num_layers": "2"}, "num_layers is '2'"),
        ({"attention_head_dim": 11}, "odd attention_head_dim"),
    ],
)
def test_a_config_of_another_network_is_refused_by_the_field(tmp_path, change, said):
    folder = write_diffusers(tmp_path / "t", weights())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    if "instead" in said:
        assert said in refusal(folder)
    else:
        with pytest.raises(ValueError, match=r"^init: .*config.json") as caught:
            check_weights(folder, "init", empty())
        assert said in str(caught.value)


def test_a_folder_written_by_diffusers_computes_the_same_here(tmp_path):
    folder = write_diffusers(tmp_path / "transformer", weights(), max_shard_size="20KB")
    network = empty().eval()
    load_weights(network, tmp_path, "teacher")
    stock = WanTransformer3DModel.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(1)
    x_t, text = torch.randn(2, 3, 2, 4, 6, generator=generator), torch.randn(2, 5, 8, generator=generator)
    timestep = torch.tensor([937.5, 250.0])
    with torch.no_grad():
        expected = stock(x_t.transpose(1, 2), timestep, text).sample.transpose(1, 2)
        assert (network(x_t, timestep, text) - expected).norm() / expected.norm() <= 2e-6


def test_nobody_but_our_own_files_carries_a_checksum(written, request):
    assert verify_weights(written, "init") == ("our own file" in request.node.callspec.id)
