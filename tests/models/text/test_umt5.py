"""Text through UMT5 as Wan reads it, and its cache."""

import errno
import json
import os
import re
import resource
import threading

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, UMT5EncoderModel

from models.errors import ConfigError
from models.text.embedding_cache import CachedText
from models.text.umt5 import Embedding, Umt5, clean_prompt
from tests.models.small_text import TEXT_DIM, save_text_encoder

LENGTH = 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_text_encoder(tmp_path_factory.mktemp("encoder"))


def encoder(folder) -> Umt5:
    return Umt5(folder, TEXT_DIM, LENGTH, CPU, torch.float32)


def test_embeddings_are_those_of_diffusers_pipeline(folder, tmp_path):
    pipeline = WanPipeline(
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=None, scheduler=None, transformer=None,
    )  # fmt: skip
    prompts = ["a cat  walks on grass", "dog", "a cat walks on grass, a dog walks on grass. a cat walks on a dog", ""]
    expected = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=LENGTH, device=CPU)
    made = CachedText(encoder(folder), tmp_path, LENGTH)(prompts)
    assert made.shape == (4, LENGTH, TEXT_DIM) and made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_rows_behind_the_last_token_are_zero_and_those_before_are_not(folder, tmp_path):
    made = CachedText(encoder(folder), tmp_path, LENGTH)(["a cat"])[0]
    assert made[:3].abs().sum(-1).min() > 0  # two words and the end of the text
    assert not made[3:].any()


def test_a_prompt_is_cleaned_as_wan_does_it():
    assert clean_prompt(" a\t&amp;amp; b\n\n  c\u2019s \u00e2\u20ac\u0153d\u00e2\u20ac\u009d ") == 'a & b c\'s "d"'


def test_a_prompt_that_is_too_long_is_cut_and_that_is_said_once_even_from_the_cache(folder, tmp_path, capsys):
    long = " ".join(["cat"] * 20)
    for text in (CachedText(encoder(folder), tmp_path, LENGTH), CachedText(encoder(folder), tmp_path, LENGTH)):
        made = text([long])
        assert made[0].abs().sum(-1).min() > 0
        assert re.findall(r"\b\d+\b", capsys.readouterr().err) == ["21", "12"]
        text([long])
        assert capsys.readouterr().err == ""


def test_what_is_cached_is_read_without_the_encoder(folder, tmp_path):
    prompts = ["a cat", "a dog walks"]
    first = CachedText(encoder(folder), tmp_path, LENGTH)(prompts)
    idle = encoder(folder)
    again = CachedText(idle, tmp_path, LENGTH)(list(reversed(prompts)))
    assert torch.equal(again.flip(0), first) and "_network" not in vars(idle)


def test_prepared_prompts_are_read_without_the_encoder_and_nothing_of_it_stays_in_memory(folder, tmp_path, capsys):
    prompts, long = ["a cat", "a  cat", "a dog walks"], " ".join(["cat"] * 20)
    ready = CachedText(encoder(folder), tmp_path / "ready", LENGTH)
    ready.prepare([*prompts, long])
    assert re.findall(r"\b\d+\b", capsys.readouterr().err) == ["21", "12"]
    assert len(list((tmp_path / "ready").iterdir())) == 3 and "_network" not in vars(ready.encoder)
    asked = []
    ready.encoder.encode = asked.append
    ready.prepare(prompts)
    one_by_one = CachedText(encoder(folder), tmp_path / "other", LENGTH)
    assert torch.equal(ready([*prompts, long]), one_by_one([*prompts, long])) and not asked
    assert "_network" not in vars(one_by_one.encoder)


def test_a_killed_preparation_keeps_what_it_had_encoded(folder, tmp_path):
    text = CachedText(encoder(folder), tmp_path, LENGTH)
    encode = text.encoder.encode

    def killed(prompts):
        if prompts == ["dog"]:
            raise KeyboardInterrupt
        return encode(prompts)

    text.encoder.encode = killed
    with pytest.raises(KeyboardInterrupt):
        text.prepare(["cat", "a cat", "dog", "a dog"])
    assert {text.path("cat"), text.path("a cat")} == set(tmp_path.iterdir())


def test_embeddings_of_another_encoder_are_not_taken(folder, tmp_path):
    other = save_text_encoder(tmp_path / "other", seed=1)
    texts = [CachedText(encoder(path), tmp_path / "cache", LENGTH)(["a cat"]) for path in (folder, other)]
    assert not torch.allclose(*texts)


def test_the_name_of_an_encoder_does_not_depend_on_where_it_lies(folder, tmp_path):
    assert encoder(save_text_encoder(tmp_path / "copy")).identity == encoder(folder).identity


class Slow:
    """An encoder whose writers all meet before they write."""

    identity = "slow"

    def __init__(self, writers: int):
        self.meeting = threading.Barrier(writers, timeout=30)

    def encode(self, prompts):
        self.meeting.wait()
        return [Embedding(torch.full((3, TEXT_DIM), 2.0), 3) for _ in prompts]

    def unload(self):
        pass


def test_writers_of_one_prompt_at_the_same_time_leave_it_whole(tmp_path):
    text, failed = CachedText(Slow(8), tmp_path, LENGTH), []

    def write():
        try:
            text(["a cat"])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    assert torch.equal(text(["a cat"])[0, :3], torch.full((3, TEXT_DIM), 2.0))


@pytest.mark.parametrize("damage", ["foreign", "cut", "without tokens"])
def test_a_damaged_entry_is_made_again(damage, folder, tmp_path):
    text = CachedText(encoder(folder), tmp_path, LENGTH)
    expected, path = text(["a cat"]), text.path("a cat")
    whole = path.read_bytes()

    def spoil() -> None:
        path.write_bytes(whole[:-1] if damage == "cut" else b"nothing")
        if damage == "without tokens":
            save_file({"rows": torch.zeros(3, TEXT_DIM)}, path)

    spoil()
    assert torch.equal(text(["a cat"]), expected) and path.read_bytes() == whole
    spoil()
    text.prepare(["a cat"])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("place", ["/proc/nope", "file", "file/below"])
def test_a_cache_that_cannot_be_written_is_named_before_the_encoder_is_loaded(place, folder, tmp_path):
    (tmp_path / "file").touch()
    text = CachedText(encoder(folder), tmp_path / place, LENGTH)
    for ask in (text, text.prepare):
        with pytest.raises(ConfigError) as error:
            ask(["a cat"])
        assert (error.value.key, error.value.value) == ("text_cache", tmp_path / place)
    assert "_network" not in vars(text.encoder)


def test_a_full_disk_is_named_and_leaves_no_part_of_an_entry(folder, tmp_path):
    text = CachedText(encoder(folder), tmp_path, LENGTH)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        with pytest.raises(ConfigError) as error:
            text(["a cat"])
        assert error.value.key == "text_cache" and os.strerror(errno.EFBIG) in error.value.problem
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_entry_that_cannot_be_read_is_named(folder, tmp_path):
    text = CachedText(encoder(folder), tmp_path, LENGTH)
    text.path("a cat").symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError) as error:
        text(["a cat"])
    assert error.value.key == "text_cache"


def broken(folder, how):
    save_text_encoder(folder)
    weights, config = folder / "text_encoder/model.safetensors", folder / "text_encoder/config.json"
    if how == "lost":
        tensors = load_file(weights)
        tensors.pop("encoder.final_layer_norm.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "wide":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"d_model": 32}))
    elif how == "garbled":
        config.write_text("{")
    elif how == "listed":
        config.write_text("[]")
    elif how == "mute":
        (folder / "tokenizer/tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ("lost", ("encoder.final_layer_norm.weight",)),
        ("truncated", ()),
        ("wide", (" 32", " 16")),
        ("garbled", ("text_encoder/config.json",)),
        ("listed", (" 16",)),
        ("mute", ("tokenizer/",)),
    ],
)
def test_a_folder_that_is_no_whole_encoder_is_refused_in_one_line(how, facts, tmp_path):
    broken(tmp_path, how)
    with pytest.raises(ConfigError) as error:
        encoder(tmp_path).encode(["a cat"])
    weights = tmp_path / "text_encoder/model.safetensors"
    assert error.value.key == "text_encoder" and error.value.value in (tmp_path, weights)
    assert all(fact in error.value.problem for fact in facts) and "\n" not in str(error.value)
