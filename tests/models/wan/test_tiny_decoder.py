"""The tiny decoder against the same layers one frame after the other, in one piece and streamed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, relu

from models.checkpoints.vae_files import open_wan_codec
from models.errors import ConfigError
from models.wan.tiny_decoder import GROWTHS, WIDTHS, TinyDecoder, TinyDecoderCodec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return TinyDecoder().state_dict()


def slowly(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Decode one video [F 16 h w] frame by frame and layer by layer, by names of a file of TAEHV."""

    def convolve(picture: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias")
        return conv2d(picture, weight, bias, padding=weight.shape[-1] // 2)

    frames = [relu(convolve(3 * torch.tanh(frame[None] / 3), "1")) for frame in latents]
    for stage, (width, growth) in enumerate(zip(WIDTHS, GROWTHS, strict=False)):
        for layer in range(3 + 6 * stage, 6 + 6 * stage):
            before = [torch.zeros_like(frames[0]), *frames[:-1]]
            for i, (frame, past) in enumerate(zip(list(frames), before, strict=True)):
                hidden = relu(convolve(torch.cat([frame, past], dim=1), f"{layer}.conv.0"))
                hidden = convolve(relu(convolve(hidden, f"{layer}.conv.2")), f"{layer}.conv.4")
                frames[i] = relu(hidden + frame)
        grown = []
        for frame in frames:
            larger = convolve(interpolate(frame, scale_factor=2.0), f"{7 + 6 * stage}.conv")
            grown += [convolve(larger[:, i * width : (i + 1) * width], str(8 + 6 * stage)) for i in range(growth)]
        frames = grown
    return torch.cat([convolve(relu(frame), "22") for frame in frames])


def codec_of(weights: dict[str, Tensor]) -> TinyDecoderCodec:
    network = TinyDecoder()
    network.load_state_dict(weights)
    return TinyDecoderCodec(network)


def test_pixels_are_those_of_the_layers_frame_by_frame_without_the_first_three(weights):
    latents = torch.randn(2, 3, 16, 2, 3)
    pixels, _ = codec_of(weights).decode(latents)
    assert pixels.shape == (2, 9, 3, 16, 24)
    for video, own in zip(pixels, latents, strict=True):
        assert 0.05 < video.count_nonzero() / video.numel() < 0.95, "a clamp would hide most pixels"
        assert (video - slowly(weights, own)[3:].clamp(0, 1)).abs().max() < 1e-5


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
@settings(max_examples=5)
def test_a_video_in_pieces_is_the_whole_video_and_no_state_is_written_again(weights, pieces):
    codec, latents = codec_of(weights), torch.randn(1, sum(pieces), 16, 2, 2)
    whole, _ = codec.decode(latents)
    past, made = None, []
    for piece in latents.split(pieces, dim=1):
        kept = [state.clone() for state in past or ()]
        frames, following = codec.decode(piece, past)
        assert all(map(torch.equal, kept, past or ()))
        made.append(frames)
        past = following
    assert (torch.cat(made, dim=1) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_of_taehv_is_known_by_its_tensors_and_its_encoder_is_left_out(weights, tmp_path, ending):
    stored = weights | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}
    file = tmp_path / f"taew2_1.{ending}"
    torch.save(stored, file) if ending == "pth" else save_file(stored, file)
    codec, latents = open_wan_codec(file, 16, CPU, torch.float32), torch.randn(1, 2, 16, 2, 2)
    assert isinstance(codec, TinyDecoderCodec) and (codec.channels, codec.time_stride, codec.space_stride) == (16, 4, 8)
    assert torch.equal(codec.decode(latents)[0], codec_of(weights).decode(latents)[0])
    with pytest.raises(ConfigError) as error:
        codec.encode(torch.zeros(1, 1, 3, 16, 16))
    assert error.value.key == "vae"


@pytest.mark.parametrize(("lost", "channels"), [("decoder.22.bias", 16), (None, 48)])
def test_half_a_file_or_one_of_another_vae_is_refused(weights, tmp_path, lost, channels):
    torch.save({name: value for name, value in weights.items() if name != lost}, tmp_path / "x.pth")
    with pytest.raises(ConfigError) as error:
        open_wan_codec(tmp_path / "x.pth", channels, CPU, torch.float32)
    assert error.value.key == "vae" and (lost or str(channels)) in str(error.value)


def test_the_names_and_sizes_are_those_of_the_public_file():
    shapes = {name: value.shape for name, value in TinyDecoder().state_dict().items()}
    assert len(shapes) == 64 and sum(shape.numel() for shape in shapes.values()) == 9_844_611
    assert shapes["decoder.13.conv.weight"] == (256, 128, 1, 1) and shapes["decoder.22.weight"] == (3, 64, 3, 3)
