"""What a GPU computes is what a CPU computes: rollouts, attention, gradients, updates, compiled and captured code.

Marked `gpu`, so not in `make test`. LONGTAKE_TEST_DEVICE=cpu rehearses them without a GPU, CPU against CPU.
"""

import copy
import os
import shutil
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import settings
from learner import build
from learner.trained_network import FlatCopy
from models.causal import denoise_block
from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import CRITIC, STUDENT, Window
from models.sampler import stream_blocks
from models.wan.attention import Visibility, attend
from models.wan.network import Wan

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("LONGTAKE_TEST_DEVICE", "cuda"))
SHAPE = StudentConfig()
SIGMAS = warped_sigmas(SHAPE.timesteps, SHAPE.shift)
ERRORS = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest relative L2 distance by type."""


@pytest.fixture(scope="module")
def network() -> Wan:
    torch.manual_seed(0)
    return Wan(SHAPE.wan).eval()


@pytest.fixture
def text():
    return torch.randn(1, SHAPE.wan.text_len, SHAPE.wan.text_dim, generator=torch.Generator().manual_seed(1))


def distance(found, wanted):
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())


def frames_of(network, text, device, dtype, count):
    """The first blocks of a video, and one that a full cache has rolled past."""
    own = copy.deepcopy(network).to(device, dtype).requires_grad_(False)
    noise = BlockNoise([3], (SHAPE.block_frames, *SHAPE.frame_shape), device)
    cache = RollingCache(SHAPE.wan, SHAPE.context_frames)
    blocks = stream_blocks(own, text.to(device, dtype), noise, SIGMAS, cache)
    return torch.cat([block.x0 for block in islice(blocks, count)], dim=1)


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
def test_a_video_past_the_roll_of_its_cache_is_that_of_the_cpu(network, text, dtype):
    count = SHAPE.attention_frames // SHAPE.block_frames + 2
    wanted = frames_of(network, text, CPU, torch.float32, count)
    assert distance(frames_of(network, text, DEVICE, dtype, count), wanted) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
def test_gradients_of_the_whole_network_are_those_of_the_cpu(network, text, dtype):
    latents = torch.randn(2, 6, *SHAPE.frame_shape, generator=torch.Generator().manual_seed(2))
    slopes = []
    for device, own in ((CPU, torch.float32), (DEVICE, dtype)):
        trained = copy.deepcopy(network).to(device, own)
        velocity = trained(latents.to(device), torch.tensor([900.0, 300.0], device=device), text.to(device, own))
        velocity.float().square().mean().backward()
        slopes.append(torch.cat([p.grad.float().flatten().cpu() for p in trained.parameters() if p.grad is not None]))
    assert distance(slopes[1], slopes[0]) < ERRORS[dtype]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradient_are_those_of_float64(masked):
    """With the kernel that this GPU gets: torch chooses another one for masks, and another one on Hopper."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, tokens, 3, 128, generator=generator) for tokens in (70, 200, 200)]
    exact = [x.bfloat16().double().requires_grad_() for x in exact]
    near = [x.detach().to(DEVICE, torch.bfloat16).requires_grad_() for x in exact]
    mask = torch.rand(2, 1, 1, 80, generator=generator) < 0.7
    mask[..., 0] = True
    spans = lambda device: Visibility(((slice(0, 70), (slice(10, 90),)),), (mask.to(device),))  # noqa: E731
    wanted, found = (attend(*x, spans(x[0].device) if masked else None) for x in (exact, near))
    assert distance(found, wanted) < 1e-2
    for wanted_slope, slope in zip(
        *(torch.autograd.grad(out.square().sum(), x) for out, x in ((wanted, exact), (found, near))), strict=True
    ):
        assert distance(slope, wanted_slope) < 2e-2


def window(role):
    generator = torch.Generator().manual_seed(len(role))
    clean = torch.randn(18 + 12, *SHAPE.frame_shape, generator=generator)
    return Window(
        rollout=0, attempt=0, index=0, role=role, prompt="a", seed=0, start=24, step=3, versions=(0,),
        context=clean[:18], latents=clean[18:], noisy=torch.randn(12, *SHAPE.frame_shape, generator=generator),
    )  # fmt: skip


def test_updates_of_critic_and_student_are_those_of_the_cpu(network, text):
    config, losses = settings.load(["dmd.batch_size=1", "rollout.batch=1", "buffer.max_age=64"]), []
    for device in (CPU, DEVICE):
        parts = build.LearnerParts(
            student=SHAPE, teacher_wan=SHAPE.wan, learner=config.learner, seed=0, device=device,
            encode_text=lambda prompts: text.expand(len(prompts), -1, -1),
        )  # fmt: skip
        networks = [copy.deepcopy(network).to(device) for _ in range(3)]
        with torch.no_grad():
            networks[1].proj_out.weight.mul_(1.1)  # else critic and teacher agree, and the student learns nothing
        learner = build.dmd_learner(parts, config.dmd, networks)
        metrics = [learner.update_critic([window(CRITIC)]) | learner.update_student([window(STUDENT)]) for _ in "ab"]
        losses.append([value for one in metrics for value in one.values()])
        weights = FlatCopy(networks[0].state_dict(), torch.float32).of(networks[0].state_dict())
        assert all(torch.equal(weights[name], own.cpu()) for name, own in networks[0].state_dict().items())
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_compiled_blocks_compute_the_same_and_are_compiled_once_for_a_full_cache(network, text):
    if DEVICE.type == "cuda" and not any(map(shutil.which, ("gcc", "clang"))):
        pytest.skip("Triton needs a C compiler")
    torch.compiler.reset()
    compiled = copy.deepcopy(network).to(DEVICE).requires_grad_(False)
    compiled.compile_blocks("inductor" if DEVICE.type == "cuda" else "aot_eager")
    count = SHAPE.attention_frames // SHAPE.block_frames + 3
    noise = BlockNoise([3], (SHAPE.block_frames, *SHAPE.frame_shape), DEVICE)
    blocks = stream_blocks(compiled, text.to(DEVICE), noise, SIGMAS, RollingCache(SHAPE.wan, SHAPE.context_frames))
    frames = [next(blocks).x0 for _ in range(count - 1)]
    with torch.compiler.set_stance("fail_on_recompile"):
        frames.append(next(blocks).x0)
    assert distance(torch.cat(frames, dim=1), frames_of(network, text, CPU, torch.float32, count)) < 1e-3


def test_a_denoising_pass_can_be_captured_in_a_cuda_graph(network, text):
    """Nothing in it may wait for the host: a captured pass with other inputs gives what an eager one gives."""
    if DEVICE.type == "cpu":
        pytest.skip("graphs are of CUDA")
    own = copy.deepcopy(network).to(DEVICE, torch.bfloat16).requires_grad_(False)
    noise = BlockNoise([3], (SHAPE.block_frames, *SHAPE.frame_shape), DEVICE)
    given = text.to(DEVICE, torch.bfloat16)
    (*_, last) = islice(stream_blocks(own, given, noise, SIGMAS, RollingCache(SHAPE.wan, SHAPE.context_frames)), 3)
    level = torch.full((1, SHAPE.block_frames), 900.0, device=DEVICE)
    still, other = noise.draw(7, 0), noise.draw(8, 0)
    with torch.no_grad():
        keys_values = own.text_keys_values(given)

        def velocity():
            return denoise_block(own, still, level, keys_values, last.cache)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            velocity()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = velocity()
        still.copy_(other)
        graph.replay()
        assert distance(captured, velocity()) < 1e-3


def test_torch_has_a_fused_kernel_for_wan_s_attention_here():
    """The slow one writes all weights out: 61 GB at 480x832."""
    if DEVICE.type == "cpu":
        pytest.skip("kernels are of CUDA")
    x = torch.randn(1, 12, 256, 128, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(fused):
        torch.nn.functional.scaled_dot_product_attention(x, x, x).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_a_network_of_wan_s_width_is_that_of_the_cpu():
    """One layer of Wan 1.3B: its head of 128 and its width get other kernels than the tiny world's."""
    wan = replace(settings.load(["preset=wan_1_3b"]).student.wan, num_layers=1)
    torch.manual_seed(0)
    network = Wan(wan).eval().requires_grad_(False)
    latents = torch.randn(1, 2, wan.in_channels, 8, 8)
    text = torch.randn(1, wan.text_len, wan.text_dim)
    wanted = network(latents, torch.tensor([500.0]), text)
    network.to(DEVICE, torch.bfloat16)
    found = network(latents.to(DEVICE), torch.tensor([500.0], device=DEVICE), text.to(DEVICE, torch.bfloat16))
    assert distance(found, wanted) < ERRORS[torch.bfloat16]
