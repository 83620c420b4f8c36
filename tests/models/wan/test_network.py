import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

import settings
from models.network_config import TINY, WAN_1_3B, WAN_14B, WanConfig
from models.wan.network import Wan
from tests.models.checkpoints.stock import same_weights, stock_class

ONE_WIDE_LAYER = replace(WAN_1_3B, num_layers=1)


def inputs(config: WanConfig, dtype: torch.dtype, frames: int) -> tuple[Tensor, Tensor]:
    """Latents [2 F C 4 6] (in patches) and text [2 S D] whose last rows are padding."""
    generator = torch.Generator().manual_seed(1)
    _, p, q = config.patch_size
    latents = torch.randn(2, frames, config.in_channels, 2 * p, 3 * q, generator=generator, dtype=dtype)
    text = torch.randn(2, 7, config.text_dim, generator=generator, dtype=dtype)
    text[0, 4:], text[1, 5:] = 0, 0
    return latents, text


def levels(kind: str, frames: int, dtype: torch.dtype) -> Tensor:
    """Timesteps, one per sample [2] or one per frame [2 F]."""
    if kind == "sample":
        return torch.tensor([937.5, 250.0], dtype=dtype)
    return torch.linspace(0, 1000, 2 * frames, dtype=dtype).view(2, frames)


def distance(config: WanConfig, dtype: torch.dtype, kind: str, frames: int = 3) -> float:
    """Relative L2 distance between the two networks' velocities."""
    stock = stock_class(config, dtype)
    ours = same_weights(stock, config)
    x_t, text = inputs(config, dtype, frames)
    timestep = levels(kind, frames, dtype)
    tokens = config.tokens_per_frame(*x_t.shape[-2:])
    per_token = timestep if kind == "sample" else timestep.repeat_interleave(tokens, dim=1)
    expected = stock(x_t.transpose(1, 2), per_token, text).sample.transpose(1, 2)
    return ((ours(x_t, timestep, text) - expected).norm() / expected.norm()).item()


@pytest.fixture
def casts_do_nothing(monkeypatch):
    """diffusers casts to float32 in norms, gates, rotary tables and timesteps, which hides everything below 1e-7."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


@pytest.mark.parametrize("kind", ["sample", "frame"])
@pytest.mark.parametrize("config", [TINY, ONE_WIDE_LAYER], ids=["tiny", "one_layer_of_1_3b"])
def test_wan_equals_the_stock_class_of_diffusers_in_float32(config, kind):
    assert distance(config, torch.float32, kind) <= 2e-6


@pytest.mark.parametrize("kind", ["sample", "frame"])
@pytest.mark.parametrize("config", [TINY, ONE_WIDE_LAYER], ids=["tiny", "one_layer_of_1_3b"])
def test_wan_equals_diffusers_in_float64_when_its_casts_do_nothing(config, kind, casts_do_nothing):
    assert distance(config, torch.float64, kind) <= 1e-9


@pytest.mark.parametrize("config", [TINY, WAN_1_3B, WAN_14B], ids=["tiny", "1_3b", "14b"])
def test_names_and_sizes_of_the_weights_are_those_of_diffusers_and_none_is_missing(config):
    fields = {name: value for name, value in asdict(config).items() if name != "text_len"}
    with torch.device("meta"):
        ours, stock = Wan(config), WanTransformer3DModel(**fields)
    assert {name: p.shape for name, p in ours.state_dict().items()} == {
        name: p.shape for name, p in stock.state_dict().items()
    }


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"), [(WAN_1_3B, 1_418_996_800, 825), (WAN_14B, 14_288_491_584, 1095)]
)
def test_the_published_sizes_of_wan_come_out(config, parameters, tensors):
    with torch.device("meta"):
        weights = Wan(config).state_dict()
    assert (sum(p.numel() for p in weights.values()), len(weights)) == (parameters, tensors)


def test_a_480p_latent_frame_has_1560_tokens_and_a_head_turns_44_42_42():
    assert WAN_1_3B.tokens_per_frame(60, 104) == 1560
    assert WAN_1_3B.rotary_dims == (44, 42, 42)


def test_latents_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="61x104"):
        WAN_1_3B.tokens_per_frame(61, 104)


def test_one_timestep_per_sample_is_that_timestep_at_every_frame():
    ours = same_weights(stock_class(TINY, torch.float32), TINY)
    x_t, text = inputs(TINY, torch.float32, frames=3)
    timestep = torch.tensor([937.5, 250.0])
    assert torch.equal(ours(x_t, timestep, text), ours(x_t, timestep[:, None].repeat(1, 3), text))


def test_padding_rows_of_the_text_are_attended_to():
    ours = same_weights(stock_class(TINY, torch.float32), TINY)
    x_t, text = inputs(TINY, torch.float32, frames=1)
    timestep = torch.tensor([500.0, 500.0])
    longer = torch.cat([text, torch.zeros_like(text)], dim=1)
    assert not torch.allclose(ours(x_t, timestep, longer), ours(x_t, timestep, text), rtol=1e-3, atol=1e-3)


def test_a_network_on_meta_does_not_import_the_compiler_which_slows_every_start():
    code = (
        "import sys, torch; from models.network_config import TINY; from models.wan.network import Wan\n"
        "with torch.device('meta'): Wan(TINY)\n"
        "print({'sympy', 'torch._dynamo'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
