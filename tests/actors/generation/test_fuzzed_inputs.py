"""Thousands of damaged files: each is read, or refused in one line that names key and file."""

import io
import json
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy
import pytest
from PIL import Image

from actors.generation.generation_config import GenerationConfig
from actors.generation.start_frames import Start, start_reader
from actors.generation.start_pictures import read_picture
from actors.generation.video_formats import open_writer
from actors.generation.video_record import recorded_keys, write_record
from actors.prompt_files import read_prompt_file
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.worlds.video_codec import TinyCodec

INPUTS = 700
"""Damaged files of each of three kinds."""
CONFIG = GenerationConfig(prompt="a cat", out="x.mp4")
READER = start_reader(CONFIG, StudentConfig(), TinyCodec())
TABLE = 'id,prompt,seconds\n1,"a cat, asleep",2\n2,a dog,3\n'


def prompt_files(folder: Path) -> list[tuple[str, bytes]]:
    lines = [
        {"prompt": "ein L\u00f6we"},
        {"prompts": ["a", "b"], "seconds": [0, 1]},
        {"text": "a cat", "image": "x.png"},
    ]
    write_record(folder / "x.mp4", CONFIG, folder / "w", "0123", {})
    return [
        (".txt", "a cat\nein L\u00f6we\n".encode()), (".txt", "a cat\na dog\n".encode("utf-16")),
        (".csv", TABLE.encode()), (".tsv", TABLE.replace(",", "\t").encode()), (".json", json.dumps(lines).encode()),
        (".jsonl", "\n".join(map(json.dumps, lines)).encode()), (".record", (folder / "x.json").read_bytes()),
    ]  # fmt: skip


def pictures(folder: Path) -> list[tuple[str, bytes]]:
    noise, saved = Image.effect_noise((16, 16), 50).convert("RGBA"), []
    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "TGA", "PPM", "ICO"):
        buffer = io.BytesIO()
        (noise.convert("RGB") if form in ("JPEG", "PPM") else noise).save(buffer, form)
        saved.append((f".{form.lower()}", buffer.getvalue()))
    return saved


def clips(folder: Path) -> list[tuple[str, bytes]]:
    video = numpy.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), numpy.uint8)
    for ending in (".mp4", ".mkv", ".webm", ".gif"):
        writer = open_writer(folder / f"x{ending}", Fraction(16), 16, 16)
        writer.write(video)
        writer.close()
    return [(path.suffix, path.read_bytes()) for path in sorted(folder.glob("x.*"))]


def read_words(path: Path) -> object:
    return recorded_keys(str(path), ()) if path.suffix == ".record" else read_prompt_file(path)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("make", "read"),
    [
        (prompt_files, read_words),
        (pictures, lambda path: read_picture(path, "image", READER.fit)),
        (clips, lambda path: READER.read(Start(path, "video", is_clip=True))),
    ],
)
def test_a_damaged_file_is_read_or_refused(make: Callable, read: Callable, tmp_path):
    chance, whole, refused = random.Random(1), make(tmp_path), 0
    for number in range(INPUTS):
        ending, content = whole[number % len(whole)]
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 2, 5, 20])):
            place = chance.randrange(min(len(damaged), chance.choice([64, len(damaged)])))
            if chance.random() < 0.8:
                damaged[place] = chance.randrange(256)
            else:
                damaged[place : place + 1] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 4)))
        if chance.random() < 0.1:
            del damaged[chance.randrange(1, len(damaged)) :]
        path = tmp_path / f"damaged{ending}"
        path.write_bytes(damaged)
        try:
            read(path)
        except ConfigError as error:
            refused += 1
            assert str(error.value) == str(path) and "\n" not in str(error), str(error)
    assert 0 < refused < INPUTS
