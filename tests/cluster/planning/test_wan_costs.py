"""The arithmetic of Wan, against torch's own counters and against the numbers that Self-Forcing's relatives publish."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cluster.planning import flops, memory, rank_memory
from models.network_config import WAN_1_3B, WAN_14B, StudentConfig, WanConfig
from models.network_sizes import block_parameters, sampling_bytes
from models.wan.network import Wan
from models.wan.rope import rotary_positions

SMALL = WanConfig(num_attention_heads=2, attention_head_dim=24, text_dim=32, text_len=5, ffn_dim=192, num_layers=3)
STUDENT = StudentConfig(
    model="wan_1_3b", height=60, width=104, horizon_frames=21, attention_frames=21, timesteps=[1000, 750, 500, 250],
    shift=5.0,
)  # fmt: skip
SHORT = StudentConfig(model="wan_1_3b", height=60, width=104, horizon_frames=21, attention_frames=12, shift=5.0)
TERA, PETA, GIGA, MEGA = 1e12, 1e15, 1e9, 1e6


# -- against torch ---------------------------------------------------------------------------------------------------


def test_operations_of_a_pass_are_those_that_torch_counts_in_the_blocks():
    with torch.device("meta"):
        network = Wan(SMALL)
        hidden, text = torch.empty(1, 3, 20, SMALL.dim), torch.empty(1, 5, 2, 24)
        past = torch.empty(1, 40, 2, 24)
        time, rotary = torch.empty(1, 3, 6, SMALL.dim), rotary_positions(SMALL, 0, 3, 8, 10, like=hidden)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for block in network.blocks:
                block(hidden, time, (text, text), rotary, ((past, past),))
    assert flops.pass_flops(SMALL, 60, 100) == counter.get_total_flops()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_a_block_are_what_autograd_keeps(dtype):
    """Widths as far apart as Wan's, and frames of many tokens: what is kept once per frame or head is small there."""
    wan = WanConfig(num_attention_heads=2, attention_head_dim=96, text_dim=32, text_len=4, ffn_dim=1152, num_layers=1)
    network = Wan(wan).to(getattr(torch, dtype))
    hidden = torch.randn(1, 2, 576, wan.dim, dtype=getattr(torch, dtype), requires_grad=True)
    time, text = torch.randn(1, 2, 6, wan.dim), torch.randn(1, 4, 2, 96, dtype=hidden.dtype)
    rotary = rotary_positions(wan, 0, 2, 48, 48, like=hidden)
    shared = {x.untyped_storage().data_ptr() for x in (*network.parameters(), *rotary)}
    kept = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        network.blocks[0](hidden, time, (text, text), rotary)
    measured = sum(x.untyped_storage().nbytes() for address, x in kept.items() if address not in shared)
    formula = rank_memory.activation_bytes(wan, 2 * 576, memory.BYTES[dtype], checkpointed=False)
    formula += 2 * 2 * rotary[0].nbytes  # rotations on a CPU keep their angles as complex numbers, of queries and keys
    assert formula == pytest.approx(measured, rel=0.02)


def test_adapters_of_lora_have_as_many_parameters_as_counted():
    from learner.lora import ADAPTER_ENDINGS, add_adapters

    network = Wan(SMALL)
    add_adapters(network, 4, 4.0)
    made = sum(p.numel() for name, p in network.named_parameters() if name.endswith(ADAPTER_ENDINGS))
    assert rank_memory.adapter_parameters(SMALL, 4) == made


@pytest.mark.slow
def test_the_vae_costs_what_torch_counts_in_the_one_of_diffusers():
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(p.numel() for p in vae.parameters()) == memory.VAE_PARAMETERS
    counted = []
    for frames in (1, 2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vae.decode(torch.empty(1, 16, frames, 60, 104, device="meta"))
        counted.append(counter.get_total_flops())
    assert pytest.approx(counted[1] - counted[0], rel=1e-3) == flops.VAE_DECODE_FLOPS
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.encode(torch.empty(1, 3, 1, 480, 832, device="meta"))
    assert pytest.approx(counter.get_total_flops(), rel=1e-3) == flops.VAE_ENCODE_IMAGE_FLOPS


# -- against the published arithmetic, to its printed digits -----------------------------------------------------------


def test_parameters_of_wan():
    assert memory.parameters(WAN_1_3B) == 1_418_996_800
    assert memory.parameters(WAN_14B) == 14_288_491_584
    assert block_parameters(WAN_1_3B) == 46_440_704


@pytest.mark.parametrize(("frames", "printed"), [(1, "0.2875"), (12, "3.45"), (21, "6.04"), (24, "6.90"), (33, "9.49"),
                                                 (42, "12.08")])  # fmt: skip
def test_bytes_of_the_cache(frames, printed):
    digits = len(printed.partition(".")[2])
    assert f"{memory.cache_bytes(STUDENT, frames) / GIGA:.{digits}f}" == printed


def test_bytes_of_what_travels():
    assert f"{memory.cache_bytes(STUDENT, 21) / 2**30:.2f}" == "5.62"
    assert f"{memory.kv_bytes(WAN_14B, 21 * 1560) / GIGA:.1f}" == "26.8"
    assert memory.latent_bytes(STUDENT, 1) == 199_680
    assert f"{memory.latent_bytes(STUDENT, 21) / MEGA:.1f}" == "4.2"
    assert f"{memory.latent_bytes(STUDENT, 402) / MEGA:.0f}" == "80"
    assert memory.cache_bytes(STUDENT, 1) / memory.latent_bytes(STUDENT, 1) == 1440
    assert f"{memory.parameters(WAN_1_3B) * 2 / GIGA:.2f}" == "2.84"
    assert f"{rank_memory.adapter_parameters(WAN_1_3B, 256) * 2 / GIGA:.2f}" == "0.70"


def test_training_memory_of_one_of_eight_ranks():
    trained, teacher = memory.parameters(WAN_1_3B), memory.parameters(WAN_14B)
    whole = sum(rank_memory.TRAINED_BYTES.values()) * trained
    assert f"{whole / GIGA:.1f}" == "22.7" and f"{whole / 8 / GIGA:.2f}" == "2.84"
    assert [f"{teacher * b / 8 / GIGA:.2f}" for b in (4, 2)] == ["7.14", "3.57"]
    assert [f"{trained * b / 8 / GIGA:.2f}" for b in (4, 2)] == ["0.71", "0.35"]
    assert f"{memory.UMT5_PARAMETERS * 4 / 8 / GIGA:.2f}" == "2.84"
    assert f"{trained * 2 / GIGA:.2f}" == "2.84", "a whole student in bfloat16, and its gradients"
    assert f"{trained * 4 / GIGA:.1f}" == "5.7", "gradients in float32"
    inputs = (
        rank_memory.activation_bytes(WAN_1_3B, 4680, 2, True)
        - rank_memory.activation_bytes(WAN_1_3B, 4680, 2, False) / 30
    )
    assert f"{inputs / GIGA:.2f}" == "0.43" and f"{7 * inputs / GIGA:.1f}" == "3.0"
    assert f"{memory.kv_bytes(WAN_1_3B, WAN_1_3B.text_len) / MEGA:.1f}" == "94.4"
    assert f"{memory.VAE_PARAMETERS * 2 / GIGA:.2f}" == "0.25"


def test_operations_of_blocks():
    tokens = 4680
    cross = 30 * 4 * tokens * WAN_1_3B.text_len * WAN_1_3B.dim
    assert (
        f"{(flops.pass_flops(WAN_1_3B, tokens, 0) - cross) / TERA:.2f}" == "11.70" and f"{cross / TERA:.2f}" == "0.44"
    )
    per_frame = flops.block_pass_flops(STUDENT, 2) - flops.block_pass_flops(STUDENT, 1)
    assert f"{per_frame / TERA:.2f}" == "1.35"
    window, short, first = (flops.block_pass_flops(STUDENT, frames) for frames in (21, 12, 3))
    assert [f"{x / TERA:.1f}" for x in (window, short, first)] == ["40.4", "28.3", "16.2"]
    assert f"{21 * per_frame / window:.0%}" == "70%"
    made = flops.rollout_flops(STUDENT, 3, before=21)
    assert f"{made / TERA:.0f}" == "202" and f"{flops.rollout_flops(SHORT, 3, before=21) / TERA:.0f}" == "141"
    assert f"{made * 17 / 12 / TERA:.0f}" == "286" and f"{made * 16 / 12 / TERA:.0f}" == "269"
    assert f"{made * 17 / 12 / 989e12:.0%}" == "29%"
    assert f"{flops.rollout_flops(SHORT, 3, before=21) * 20.7 / 12 / TERA:.0f}" == "244"
    first_5_s = flops.rollout_flops(STUDENT, 21) / (81 / 17)
    assert f"{first_5_s / TERA:.0f}" == "208"
    decoded = made + flops.decode_flops(STUDENT, 3)
    assert f"{flops.decode_flops(STUDENT, 3) / TERA:.1f}" == "40.7"
    assert f"{decoded / made - 1:.0%}" == "20%" and f"{decoded * 17 / 12 / TERA:.0f}" == "344"
    rolling = 5 * flops.pass_flops(WAN_1_3B, tokens, 21 * 1560) + window
    assert f"{rolling / TERA:.0f}" == "242", "Rolling Forcing: passes of 15 frames, and the read"


def test_operations_of_whole_rollouts():
    long, longest = flops.rollout_flops(STUDENT, 402), flops.rollout_flops(STUDENT, 1023)
    assert f"{long / PETA:.1f}" == "26.6" and f"{longest / PETA:.1f}" == "68.5"
    assert f"{long / (0.4 * 989e12):.0f}" == "67"
    ends = range(21, 403, 3)
    mean = sum(flops.rollout_flops(STUDENT, end) for end in ends) / len(ends)
    assert f"{mean / PETA:.0f}" == "14"
    assert f"{sum(ends) / len(ends) / 402:.0%}" == "53%"


def test_operations_of_scores_and_of_self_forcing():
    small, large = (flops.score_flops(wan, STUDENT, 21) for wan in (WAN_1_3B, WAN_14B))
    assert [f"{x / TERA:.0f}" for x in (small, large)] == ["283", "1676"]
    gradient = flops.GRADIENT_PASSES[True]
    # Its exit step is drawn: 2.5 of 4 denoising passes on average, the last with gradient, then the read.
    once = flops.read_flops(STUDENT, 21)
    student = (1.5 + gradient + 1) * once + small
    critic = 3.5 * once + gradient * small
    assert f"{(student + 2 * large) / PETA:.1f}" == "4.9" and f"{(student + 2 * small) / PETA:.1f}" == "2.1"
    assert f"{critic / PETA:.1f}" == "1.8"
    assert f"{(student + 2 * large + 5 * critic) / PETA:.0f}" == "14"


def test_operations_of_a_learner_that_makes_windows_again():
    gradient = flops.GRADIENT_PASSES[True]
    score = flops.score_flops(WAN_1_3B, STUDENT, 21)
    again = flops.replay_flops(STUDENT, 21, 21, "blockwise", gradient) - flops.read_flops(STUDENT, 21)
    critic = gradient * score
    cycle = again + 3 * score + 5 * critic
    assert f"{again / PETA:.1f}" == "2.3" and f"{3 * score / PETA:.2f}" == "0.85"
    assert f"{(again + 3 * score) / PETA:.1f}" == "3.1" and f"{critic / PETA:.2f}" == "1.13"
    assert f"{cycle / PETA:.1f}" == "8.8"
    rollout = flops.rollout_flops(STUDENT, 402)
    assert f"{6 * rollout / cycle:.0f}" == "18" and f"{rollout / cycle:.0f}" == "3"


def test_a_masked_replay_reads_the_history_once_and_every_noisy_block_sees_its_window():
    clean, noisy = flops.masked_flops(STUDENT, 21, history=27)
    slow = sum(flops.block_pass_flops(STUDENT, min(21, 3 * i)) for i in range(1, 1 + (27 + 18) // 3))
    assert clean == slow
    assert noisy == 7 * flops.block_pass_flops(STUDENT, 21)
    assert flops.replay_flops(STUDENT, 21, 27, "masked", 4) == clean + 4 * noisy


def test_bytes_of_a_rolling_cache_are_those_of_a_real_one():
    from models.causal import write_block
    from models.kv_cache import RollingCache

    student = StudentConfig()
    network, cache = Wan(student.wan), RollingCache(student.wan, student.context_frames)
    with torch.no_grad():
        text = network.text_keys_values(torch.zeros(1, student.wan.text_len, student.wan.text_dim))
        for _ in range(5):
            cache = write_block(network, torch.zeros(1, student.block_frames, *student.frame_shape), text, cache)
    past = cache.past(student.block_frames)
    held = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for layer in past for x in layer}.values())
    assert memory.cache_bytes(student, student.context_frames + 2 * student.block_frames, element=4) == held
    assert memory.kv_bytes(student.wan, student.wan.text_len, 4) == sum(x.nbytes for layer in text for x in layer)
    weights = sum(x.nbytes for x in network.parameters())
    at_work = sampling_bytes(student, 2, element=4) - weights - 2 * held
    assert 0 < at_work < weights + 2 * held, "the cache and the weights are most of it"
