"""The student of a video is loaded tensor by tensor: no second network is ever in memory."""

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed._tools.mem_tracker import MemTracker

from actors.generation.generation_config import GenerationConfig
from actors.generation.job import open_job
from actors.generation.video_loop import load_student
from models.checkpoints.formats import network_shapes
from models.checkpoints.weight_files import stored_tensors
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.world_config import SHIPPED_STUDENT

LAYER = "blocks.1.attn1.to_q"


@pytest.fixture
def lora(tmp_path):
    """A whole difference of a bias, far below what bfloat16 resolves beside its weight, and matrices of a layer."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"diffusion_model.{LAYER}.lora_A.weight": torch.randn(2, 96, generator=generator),
        f"diffusion_model.{LAYER}.lora_B.weight": torch.randn(96, 2, generator=generator),
        "diffusion_model.proj_out.diff_b": torch.full(network_shapes("tiny")["proj_out.bias"], 1e-3),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    return tensors, tmp_path / "lora.safetensors"


def job(tmp_path, **keys):
    keys = {"prompt": PROMPTS[0], "out": f"{tmp_path}/x.mp4", "device": "cpu", "dtype": "bfloat16"} | keys
    return open_job(GenerationConfig(**keys))


def test_loading_holds_the_weights_in_their_dtype_and_one_tensor_beside_them(tmp_path):
    opened = job(tmp_path)
    with MemTracker() as tracker:
        student = load_student(opened)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    held = sum(p.nbytes for p in student.parameters())
    largest = max(4 * p.numel() for p in student.parameters())
    assert held < peak <= held + 3 * largest < 2 * held


@pytest.mark.parametrize("live", [False, True])
def test_adapters_and_differences_are_added_in_float32_and_then_rounded(tmp_path, lora, live):
    tensors, path = lora
    student = load_student(job(tmp_path, lora=str(path), lora_live=live)).state_dict()
    stored = dict(stored_tensors(SHIPPED_STUDENT))
    down, up = (tensors[f"diffusion_model.{LAYER}.lora_{side}.weight"] for side in "AB")
    bias = (stored["proj_out.bias"] + tensors["diffusion_model.proj_out.diff_b"]).bfloat16()
    assert torch.equal(student["proj_out.bias"], bias)
    if live:
        assert torch.equal(student[f"{LAYER}.base_layer.weight"], stored[f"{LAYER}.weight"].bfloat16())
        assert torch.equal(student[f"{LAYER}.lora_A.default.weight"], down.bfloat16())
    else:
        assert torch.equal(student[f"{LAYER}.weight"], (stored[f"{LAYER}.weight"] + up @ down).bfloat16())
