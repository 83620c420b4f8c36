"""The decoders that are compared have the operations that the plan counts, and each gives a line."""

import json

import pytest

from benchmarks.decoder_speed import DECODERS, DecoderOptions, decode_flops, main
from cluster.planning.flops import VAE_DECODE_FLOPS


def test_operations_of_the_vae_are_those_of_the_plan_and_grow_with_the_picture():
    assert decode_flops("VAE", (1, 1, 16, 60, 104)) == VAE_DECODE_FLOPS
    assert decode_flops("VAE, narrow", (1, 1, 16, 4, 4)) < decode_flops("VAE", (1, 1, 16, 4, 4))
    for name in ("VAE, narrow", "tiny decoder"):
        assert decode_flops(name, (1, 2, 16, 4, 8)) == pytest.approx(4 * decode_flops(name, (1, 1, 16, 4, 4)), rel=0.02)


def test_a_decoder_has_one_line_with_its_share(capsys, monkeypatch):
    monkeypatch.delitem(DECODERS, "VAE")
    main(DecoderOptions(height=1, width=1, repeats=1))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["config"]["decoder"] for line in lines] == list(DECODERS)
    assert all(line["share"] == pytest.approx(line["value"] / line["limit"], rel=1e-4) for line in lines)
