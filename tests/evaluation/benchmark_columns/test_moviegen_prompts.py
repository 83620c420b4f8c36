"""The first prompts of a file are taken, and the file is identified by its content."""

import hashlib

import pytest

from evaluation.benchmark_columns.moviegen_prompts import moviegen_prompts, prompt_list
from models.errors import ConfigError


def test_the_first_lines_are_the_prompts_and_the_digests_are_those_of_the_bytes(tmp_path):
    lines = [f"prompt {i} \u00e9\n" for i in range(1003)]
    path = tmp_path / "MovieGen.txt"
    path.write_text("".join(lines), encoding="utf-8")
    prompts = moviegen_prompts(path)
    assert prompts.texts == tuple(line.strip() for line in lines[:128])
    assert (prompts.file, prompts.lines) == ("MovieGen.txt", 1003)
    assert prompts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert prompts.source == prompts.first_source == prompt_list("0" * 64)


def test_a_last_line_without_its_end_counts(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\nc")
    assert moviegen_prompts(path, 3).texts == ("a", "b", "c")


@pytest.mark.parametrize("digest", ["ae02a4bb", "50293c27", "7b7cb649"])
def test_known_lists_have_names_of_their_own(digest):
    assert prompt_list(digest + 56 * "0") not in (prompt_list("0" * 64), prompt_list("ae02a4bc" + 56 * "0"))


@pytest.mark.parametrize(
    "content", [None, b"a\nb\n", b"a\n\nc\n", b"a\n\xff\nc\n", b"", b'{\n"prompt": "a"\n}\n', b"- prompt: a\n" * 3]
)
def test_files_without_so_many_prompts_are_rejected(tmp_path, content):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        moviegen_prompts(path, 3)
    assert error.value.key == "prompts"
