import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.checkpoints.weight_files import check_weights, load_weights, save_weights, shape_misfit, verify_weights
from models.errors import ConfigError
from models.network_config import CONFIGS, WanConfig
from models.wan.network import Wan
from models.worlds.world_config import SHIPPED_STUDENT

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
    ffn_dim=32, num_layers=1,
)  # fmt: skip


def network(seed: int) -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Wan(CONFIG)


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "deep" / "weights.safetensors"
    save_weights(network(0).state_dict(), path, {"seed": 0, "loss": 0.25})
    return path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def rewrite(path: Path, change) -> None:
    """Put the tensors back as `change` gives them."""
    tensors: dict[str, Tensor] = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(path: Path) -> str:
    """Problem with which loading is rejected; the network must be as it was."""
    module = network(1)
    with pytest.raises(ConfigError) as caught:
        load_weights(module, path, "init")
    assert same(module, network(1))
    assert (caught.value.key, caught.value.value) == ("init", path) and "\n" not in str(caught.value)
    return caught.value.problem


def test_weights_come_back_bit_by_bit_under_the_names_of_the_state_dict(saved):
    module = network(1)
    load_weights(module, saved, "init")
    assert same(module, network(0))
    assert load_file(saved).keys() == module.state_dict().keys()


def test_the_header_says_where_the_weights_came_from(saved):
    assert {"seed": "0", "loss": "0.25"}.items() <= header(saved).items()


def test_saving_leaves_the_module_trainable_and_unchanged(tmp_path):
    module = network(0)
    save_weights(module.state_dict(), tmp_path / "w.safetensors", {})
    assert same(module, network(0)) and all(p.requires_grad for p in module.parameters())


def test_a_missing_tensor_is_named(saved):
    rewrite(saved, lambda tensors: tensors.pop("blocks.0.attn1.norm_q.weight"))
    assert "lacks blocks.0.attn1.norm_q.weight" in refusal(saved)


def test_an_unknown_tensor_is_named(saved):
    rewrite(saved, lambda tensors: tensors.update({"cls_pred_branch.weight": torch.zeros(1)}))
    assert "unknown cls_pred_branch.weight" in refusal(saved)


def test_a_tensor_of_another_size_is_named(saved):
    rewrite(saved, lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}))
    assert "proj_out.bias" in refusal(saved)


def test_of_many_missing_tensors_some_are_named_and_the_rest_counted(saved):
    rewrite(saved, lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:9]])
    message = refusal(saved)
    assert " 5 " in message and len(message) < 500


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.999])
def test_a_truncated_file_is_refused_wherever_it_ends(saved, kept):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "safetensors" in refusal(saved)


def test_a_file_of_torch_under_the_name_of_safetensors_is_read_by_its_first_bytes(saved):
    torch.save(network(0).state_dict(), saved)
    module = network(1)
    load_weights(module, saved, "init")
    assert same(module, network(0))


def test_a_missing_file_and_a_folder_of_something_else_are_refused(saved):
    assert refusal(saved.with_name("elsewhere.safetensors"))
    (saved.parent / "notes.txt").write_text("x")
    saved.rename(saved.with_suffix(".kept"))
    message = refusal(saved.parent)
    assert "diffusion_pytorch_model.safetensors" in message and "notes.txt" in message


def test_a_file_can_be_checked_without_reading_its_tensors(saved):
    with torch.device("meta"):
        network = Wan(CONFIG)
    check_weights(saved, "init", network)
    with pytest.raises(ConfigError) as error:
        check_weights(saved.with_name("gone"), "teacher", network)
    assert (error.value.key, error.value.value) == ("teacher", saved.with_name("gone"))


def test_weights_of_another_known_network_name_it_in_the_fix():
    with torch.device("meta"):
        network = Wan(CONFIGS["tiny_wide"])
    for key, fix in (("init", "student.model=tiny"), ("teacher", "teacher_model=tiny")):
        with pytest.raises(ConfigError) as error:
            check_weights(SHIPPED_STUDENT, key, network)
        assert error.value.key == key and error.value.fix.endswith(fix)


def test_a_flipped_byte_anywhere_in_a_result_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights({"b": torch.randn(2).bfloat16(), "a": torch.tensor(1.5)}, path, {"seed": 0, "loss": 0.25})
    assert verify_weights(path, "init")
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            noticed = not verify_weights(path, "init")  # without its checksum it is nobody's result
        except ValueError as error:
            noticed = str(path) in str(error) and "init" in str(error)
        assert noticed, f"byte {place}: {whole[place : place + 9]}"


def test_a_file_without_a_checksum_passes_and_says_that_it_has_none(saved):
    assert verify_weights(saved, "init")
    rewrite(saved, lambda tensors: None)
    assert not verify_weights(saved, "init")


@pytest.mark.parametrize("path", sorted(SHIPPED_STUDENT.parent.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_carry_their_checksum(path):
    assert verify_weights(path, "init")


def test_tensors_exchanged_between_names_are_noticed(saved):
    tensors, written = load_file(saved), header(saved)
    save_file(tensors, saved, written)
    assert verify_weights(saved, "init")
    one, other = "blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_k.weight"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, saved, written)
    with pytest.raises(ConfigError) as error:
        verify_weights(saved, "init")
    assert error.value.key == "init" and saved.name in error.value.problem


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        save_weights(network(1).state_dict(), saved, {})
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_tensors_that_share_memory_are_written_each(saved):
    tied = torch.ones(2)
    save_weights({"a": tied, "b": tied}, saved, {})
    assert verify_weights(saved, "init") and torch.equal(load_file(saved)["b"], tied)


def test_no_difference_is_found_where_there_is_none():
    shapes = {"a": (2, 3), "b": ()}
    assert shape_misfit(shapes, dict(shapes)) is None and shape_misfit({}, {}) is None
    assert shape_misfit(shapes, {"a": (3, 2), "b": ()}).endswith(" a")
