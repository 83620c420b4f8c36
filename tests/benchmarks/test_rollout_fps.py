"""What the benchmark of rollouts counts, and that it says it in one line."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import settings
from benchmarks.ceilings import BlockFlops, block_seconds
from benchmarks.lock_step import in_turns
from benchmarks.measured_network import measured_student
from benchmarks.rollout_fps import Options, block_video_frames, decode_seconds, endless, open_codec, stream_seconds
from models.causal import denoise_block, write_block
from models.errors import ConfigError
from models.kv_cache import KVCache
from models.network_config import CONFIGS
from models.wan.network import Wan
from models.worlds.video_codec import TinyCodec
from tests.fakes.commands import run_script

CPU = torch.device("cpu")


def test_operations_of_a_block_are_those_that_torch_counts_for_wan_but_for_patches_time_and_head(monkeypatch):
    monkeypatch.setitem(CONFIGS, "wan_1_3b", replace(CONFIGS["wan_1_3b"], num_layers=10))  # the whole takes seconds
    student = settings.load(["preset=wan_1_3b"]).student
    shape = (1, student.block_frames, *student.frame_shape)
    with torch.device("meta"), torch.no_grad():
        network, x, level = Wan(student.wan), torch.empty(shape), torch.empty(1, student.block_frames)
        text = network.text_keys_values(torch.empty(1, student.wan.text_len, student.wan.text_dim))
        keys = torch.empty(1, 18 * 1560, student.wan.num_attention_heads, student.wan.attention_head_dim)
        window = [(keys, keys)] * student.wan.num_layers
        cache = KVCache(student.wan, student.context_frames, frames=18, window_frames=18, window=window)
        with FlopCounterMode(display=False) as counter:
            for _ in student.timesteps:
                denoise_block(network, x, level, text, cache)
            write_block(network, x, text, cache)
    counted = BlockFlops.of(student)
    products = counter.get_flop_counts()["Global"][torch.ops.aten.addmm]
    assert counted.attention == counter.get_total_flops() - products
    assert counted.products < products
    assert counted.products == pytest.approx(products, rel=0.01)


def test_a_block_of_wan_is_twelve_video_frames():
    for model, frames in (("wan_1_3b", 12), ("tiny", 3)):
        codec = open_codec(model, torch.device("meta"), torch.float32)
        assert block_video_frames(settings.load([f"preset={model}"]).student, codec) == frames


def test_every_call_is_timed():
    calls = []
    assert block_seconds(lambda: calls.append(0), 7, torch.device("cpu")) > 0
    assert len(calls) == 7


@pytest.mark.parametrize(
    "argument",
    [
        "model=wan_14b",
        "dtype=float16",
        "vae=true",
        "compile=perhaps",
        "blocks=0",
        "repeats=-1",
        "speed=9",
        "layers=2 against=x",
    ],
)
def test_a_mistake_names_the_key(argument):
    with pytest.raises(ConfigError) as error:
        settings.read_keys(argument.split(), Options)
    assert error.value.key == argument.partition("=")[0]


def test_mid_has_the_sizes_at_which_peers_are_compared():
    student = measured_student("mid")
    wan = student.wan
    assert (wan.dim, wan.num_layers, wan.num_attention_heads, wan.attention_head_dim) == (512, 12, 4, 128)
    assert (wan.ffn_dim, wan.text_len, wan.text_dim) == (2048, 512, 512)
    assert wan.tokens_per_frame(student.height, student.width) == 104
    assert (student.attention_frames, student.block_frames, len(student.timesteps)) == (21, 3, 4)


ANSWERS = """
import sys
print("1234", flush=True)
for number, _ in enumerate(sys.stdin):
    print(number + 0.5, flush=True)
"""


def test_commits_are_timed_in_turns_as_each_answers(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/lock_step.py").write_text(ANSWERS)
    own_s, other_s, commit = in_turns(tmp_path, {"model": "tiny"}, 3)
    assert (len(own_s), min(own_s) > 0, other_s, commit) == (3, True, [0.5, 1.5, 2.5], "1234")


def test_a_checkout_that_does_not_answer_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError) as error:
        in_turns(tmp_path, {"model": "tiny"}, 1)
    assert error.value.key == "against"


def test_it_prints_one_line_on_a_cpu_in_seconds(capsys):
    assert run_script("benchmarks.rollout_fps", "model=tiny", "blocks=2", "repeats=3") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["name"] == "rollout_fps" and line["repeats"] == 3 and line["config"]["model"] == "tiny"
    assert line["value"] == pytest.approx(3000 / line["block_ms"], rel=0.01)
    assert line["share"] == pytest.approx(line["tflop_per_s"] / line["matmul_tflop_per_s"], rel=0.05)
    assert line["roofline_share"] == pytest.approx(line["roofline_block_ms"] / line["block_ms"], rel=0.3)
    assert line["fps_with_vae"] is None and line["peak_memory_gb"] > 0
    assert line["peak_memory_with_vae_gb"] is None


@pytest.mark.slow
def test_decoding_carries_on_from_block_to_block():
    """Every repeat is one block of four video frames per latent frame, behind others."""
    seconds = decode_seconds(torch.zeros(1, 3, 16, 2, 2), open_codec("wan_1_3b", CPU, torch.float32), 2, CPU)
    assert len(seconds) == 2 and min(seconds) > 0


def test_a_stream_is_timed_from_noise_to_bytes_block_after_block():
    student, made = settings.load(["preset=tiny"]).student, []
    blocks = (made.append(block.index) or block for block in endless(student, CPU, torch.float32, compiled=False))
    seconds = stream_seconds(blocks, TinyCodec(), Options(blocks=2, repeats=3), CPU)
    assert len(seconds) == 3 and min(seconds) > 0
    assert made == list(range(2 + 2 * 3))


@pytest.mark.gpu
def test_nothing_in_a_block_waits_for_the_device():
    student = settings.load(["preset=tiny"]).student
    blocks = endless(student, torch.device("cuda"), torch.bfloat16, compiled=False)
    for _ in range(6):
        next(blocks)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(blocks)
    finally:
        torch.cuda.set_sync_debug_mode("default")
