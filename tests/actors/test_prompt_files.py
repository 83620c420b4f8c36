"""Every form of a prompt file gives the same prompts; what is no prompt is counted or refused."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.prompt_files import read_prompt_file, schedule_problem
from models.errors import ConfigError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 146912345\n"
PROMPTS = ["a cat, asleep", 'a dog says "hello"', "ein L\u00f6we"]


def write(path, content: str, encoding: str = "utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def texts(path) -> list[str]:
    entries = read_prompt_file(path).entries
    assert all(len(entry.scenes) == 1 and entry.scenes[0][0] == 0 for entry in entries)
    return [entry.scenes[0][1] for entry in entries]


def table(delimiter: str, name: str = "prompt") -> str:
    lines = io.StringIO()
    rows = csv.writer(lines, delimiter=delimiter)
    rows.writerows([["id", name, "duration"], *([i, text, 5] for i, text in enumerate(PROMPTS))])
    return lines.getvalue()


FORMS = {
    "a.txt": "\n".join(PROMPTS),
    "A.TXT": "\n".join(PROMPTS),
    "a.jsonl": "\n".join(json.dumps({"id": 1, "prompt": text}) for text in PROMPTS),
    "b.jsonl": json.dumps([{"caption": text} for text in PROMPTS]),
    "a.json": json.dumps(PROMPTS),
    "b.json": json.dumps([{"prompt": "", "prompt_en": text, "text": "no"} for text in PROMPTS], indent=2),
    "c.json": "\n".join(json.dumps({"Text": text}) for text in PROMPTS),
    "json.txt": json.dumps(PROMPTS),
    "jsonl.txt": "\n".join(json.dumps({"prompt": text}) for text in PROMPTS),
    "a.csv": table(","),
    "semicolon.csv": table(";", "Text"),
    "csv.txt": table(","),
    "a.tsv": table("\t", "caption"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same_prompts(name, encoding, tmp_path):
    assert texts(write(tmp_path / name, FORMS[name], encoding)) == PROMPTS


COMMAS = ["a poster, text, in the rain", "a cat, sleeping on a sofa, warm light", "a dog, running, beach"]


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        (COMMAS, 0),
        (["a poster, text", "a cat, asleep"], 0),
        (["neon,text", "a cat, asleep, at night", "a dog"], 1),
        (["id;prompt", "1;a cat", "2;a dog; asleep"], 1),
        (["id,prompt", '1,"a cat'], 1),
    ],
)
def test_a_text_file_with_commas_is_read_by_lines_unless_it_is_a_whole_table(lines, notes, tmp_path, capsys):
    assert texts(write(tmp_path / "a.txt", "\n".join(lines))) == lines
    assert capsys.readouterr().err.count("note: ") == notes


def test_a_text_file_read_as_a_table_is_noted(tmp_path, capsys):
    assert texts(write(tmp_path / "a.txt", '"id", Prompt\r\n\r\n1,a cat\r\n2,"a dog, asleep"\r\n')) == [
        "a cat",
        "a dog, asleep",
    ]
    assert capsys.readouterr().err.count("note: ") == 1
    assert texts(write(tmp_path / "a.csv", table(","))) == PROMPTS and not capsys.readouterr().err


def test_a_parquet_table_holds_them_in_its_first_filled_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "id": [1, 2, 3],
        "Prompt": [None, "", "ein Lo\u0308we"],
        "text": [*PROMPTS[:2], "no"],
        "duration": [1, 2, 3],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.PARQUET")
    assert texts(tmp_path / "a.PARQUET") == PROMPTS
    assert read_prompt_file(tmp_path / "a.PARQUET").unread == ("duration",)


def test_columns_that_look_like_settings_are_named(tmp_path):
    found = read_prompt_file(write(tmp_path / "a.csv", table(",")))
    assert found.unread == ("duration",) and not found.refused


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("a.txt", POINTER, "Git LFS"),
        ("a.jsonl", POINTER, "Git LFS"),
        ("a.csv", POINTER, "Git LFS"),
        ("a.parquet", POINTER, "Git LFS"),
        ("a.txt", "<!DOCTYPE html>\n<html>not found</html>", "web page"),
        ("a.txt", "a cat\x00\x01", "no text"),
        ("a.txt", "1\ta cat\n2\ta dog\n", "columns"),
        ("a.csv", "id,words\n1,a cat\n", "id, words"),
        ("a.csv", "a cat\n", "a cat"),
        ("a.csv", 'id,prompt\n1,"a cat\n2,a dog\n', "line"),
        ("a.csv", "id,prompt\n1,a cat, asleep\n", "more cells"),
        ("a.json", '[{"words": "a cat", "id": 1}]', "it has words, id"),
        ("a.json", "[[1]]", "list"),
        ("a.json", "[" * 100_000, "no JSON"),
        ("a.jsonl", '{"prompt": null}', "empty"),
        ("a.json", '{"prompt_schedule": [[1, "a"]]}', "rise from 0"),
        ("a.json", '{"prompts": ["a", ""]}', "empty"),
    ],
)
def test_what_is_no_prompt_file_is_refused_by_its_kind(name, content, seen, tmp_path):
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as error:
        read_prompt_file(path)
    assert (error.value.key, error.value.value) == ("prompts", path) and seen in error.value.problem


def test_a_tenth_of_the_entries_may_be_unusable_and_no_more(tmp_path):
    good, bad = [json.dumps({"prompt": "a cat"})] * 18, [json.dumps({"prompt": 7}), "{"]
    found = read_prompt_file(write(tmp_path / "a.jsonl", "\n".join(good + bad)))
    assert len(found.entries) == 18 and found.refused == {"no text": 1, "no JSON": 1}
    with pytest.raises(ConfigError) as error:
        read_prompt_file(write(tmp_path / "b.jsonl", "\n".join(good[1:] + bad)))
    assert "2 of 19" in error.value.problem and "entry 18" in error.value.problem
    with pytest.raises(ConfigError):
        read_prompt_file(tmp_path / "a.jsonl", most_refused=0)


def test_a_schedule_is_read_with_its_times_or_without(tmp_path):
    lines = [
        {"prompt_schedule": [[0, "a  cat"], [2.5, "a dog"]], "image": "x.png"},
        {"prompts": ["a cat", "a dog"], "seconds": [0, 4]},
        {"prompts": ["a cat", "a dog"]},
    ]
    entries = read_prompt_file(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))).entries
    assert [entry.scenes for entry in entries] == [
        ((0.0, "a cat"), (2.5, "a dog")), ((0.0, "a cat"), (4.0, "a dog")), ((None, "a cat"), (None, "a dog"))
    ]  # fmt: skip
    assert [entry.start for entry in entries] == ["x.png", None, None]


@given(st.binary(max_size=200), st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(content)
    try:
        assert all(text for entry in read_prompt_file(path).entries for _, text in entry.scenes)
    except ConfigError as error:
        assert (error.key, error.value) == ("prompts", path)


@pytest.mark.parametrize("scenes", [None, [], [[1, "a"]], [[0, "a"], [0, "b"]], [["0", "a"]], [[True, "a"]], [[0, 1]]])
def test_a_schedule_has_pairs_whose_seconds_rise_from_0(scenes):
    assert schedule_problem(scenes) and schedule_problem([[0, "a"], [1.5, "b"]]) is None
