"""Every form of a prompt file gives the same prompts; what is no prompt is counted or refused."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.prompt_entries import schedule_problem
from actors.prompt_files import read_prompt_file
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
        ("a.jsonl", f'{{"prompt_schedule": [[0, "a"], [{"9" * 400}, "b"]]}}', "1e+09"),
        ("a.json", '{"prompts": ["a", "b"], "seconds": 9}', "list of 2"),
        ("a.csv", 'prompts,seconds\n"[""a"",""b""]",9\n', "list of 2"),
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


INDENTED = "\n".join(json.dumps({"id": 1, "prompt": text}, indent=1) for text in PROMPTS)
"""Objects one after the other, as `jq .` writes them."""


@pytest.mark.parametrize("ending", [".txt", ".json", ".jsonl"])
def test_indented_objects_are_entries_not_lines(ending, tmp_path):
    assert texts(write(tmp_path / f"a{ending}", INDENTED)) == PROMPTS


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (INDENTED[:-9], "line 11"),
        (json.dumps(PROMPTS, indent=1)[:-9], "line 4"),
        ('[\n"a cat",\n"a dog",\n]', "line 4"),
        ("{'prompt': 'a cat'}\n{'prompt': 'a dog'}", "line 1"),
        ('"a cat",\n"a dog",\n"a bird"', "a piece of JSON"),
        ('"prompt": "a cat",\n"seed": 1', "a piece of JSON"),
        ("- prompt: a cat\n- prompt: a dog", "a field of YAML"),
        ("prompts:\n  - a cat\n  - a dog", "a field of YAML"),
        ("# prompts\na cat\na dog", "a heading"),
        ("| id | prompt |\n|---|---|\n| 1 | a cat |", "several columns"),
        ("id | prompt\n--- | ---\n1 | a cat", "several columns"),
        ("```\na cat\n```", "2 of 3"),
        ("<!-- saved -->\n<html>", "a web page"),
        ("<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", "a web page"),
        ("Entry not found", "a web page"),
        ("404: Not Found\n", "a web page"),
        ("Invalid username or password.", "a web page"),
        ("a cat\n<b>a dog</b>", "markup"),
    ],
)  # fmt: skip
def test_other_formats_in_a_txt_are_refused_by_name(content, seen, tmp_path):
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(ConfigError) as error:
            read_prompt_file(write(tmp_path / "a.txt", content, encoding))
        assert error.value.key == "prompts" and seen in error.value.problem, error.value.problem


@pytest.mark.parametrize(
    "line",
    [
        "<sks> dog on a beach", "<lora:film:0.8> a cat", "[style: anime] a cat", "{red|blue} car", "not found in art",
        '"Stop" says a sign', "a cat, asleep,", "10 cats", "404 cats march", "#nofilter sunset", "a - b", "'tis a cat",
        "forbidden city at dawn", "3.5 kg of apples", "\U0001f431", "Prompt engineers at work", "a | b | c",
    ],
)  # fmt: skip
def test_a_prompt_may_begin_like_another_format(line, tmp_path):
    assert texts(write(tmp_path / "a.txt", f"{line}\na dog")) == [line, "a dog"]
    assert texts(write(tmp_path / "b.txt", line)) == [line]


@pytest.mark.parametrize("marks", [["- "] * 2, ["* "] * 2, ["1. ", "2. "], ["1) ", "2) "]])
def test_marks_of_a_list_are_left_out_aloud(marks, tmp_path, capsys):
    path = write(tmp_path / "a.txt", f"{marks[0]}a cat\n{marks[1]}3 dogs")
    assert texts(path) == ["a cat", "3 dogs"] and capsys.readouterr().err.count("note: ") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,id,Prompt\na cat,1,a dog\n"),
        ("a.json", '{"prompt": "a cat", "Prompt": "a dog"}'),
        ("a.jsonl", '{"prompt": "a cat", "prompt": "a dog"}'),
    ],
)
def test_of_two_columns_of_one_name_none_is_lost(name, content, tmp_path):
    with pytest.raises(ConfigError) as error:
        read_prompt_file(write(tmp_path / name, content))
    assert error.value.key == "prompts" and "two" in error.value.problem


def test_of_two_parquet_columns_of_one_name_none_is_lost(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table([["a"], ["b"]], names=["prompt", "prompt"]), tmp_path / "a.parquet")
    with pytest.raises(ConfigError) as error:
        read_prompt_file(tmp_path / "a.parquet")
    assert error.value.key == "prompts" and "two" in error.value.problem


def test_a_row_cut_at_a_comma_of_its_prompt_is_refused(tmp_path):
    rows = ["id,prompt,duration", *['1,"a cat, on a mat",5'] * 18, "2,a dog,5s", "3,a cat, on a mat"]
    found = read_prompt_file(write(tmp_path / "a.csv", "\n".join(rows)))
    assert [entry.scenes[0][1] for entry in found.entries] == ["a cat, on a mat"] * 18 + ["a dog"]
    assert found.refused == {"words as a number": 1}


def test_every_column_that_is_not_read_is_named(tmp_path):
    row = {"id": 1, "prompt": "a cat", "guidance_scale": 5, "steps": 4, "n_frames": 81, "style": "", "seconds": 9}
    assert read_prompt_file(write(tmp_path / "a.jsonl", json.dumps(row))).unread == (
        "guidance_scale", "steps", "n_frames", "style", "seconds"
    )  # fmt: skip
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": ["a cat"], "Steps": [4]}), tmp_path / "a.parquet")
    assert read_prompt_file(tmp_path / "a.parquet").unread == ("steps",)


def test_what_is_no_name_of_a_start_is_kept_as_a_fault(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures = {"text": ["a cat", "a dog"], "image": [{"bytes": b"\x89PNG", "path": "a.png"}, None]}
    parquet.write_table(pyarrow.table(pictures), tmp_path / "a.parquet")
    both = write(tmp_path / "a.jsonl", json.dumps({"prompt": "a cat", "image": "a.png", "video": "a.mp4"}))
    for path in (tmp_path / "a.parquet", both):
        entry = read_prompt_file(path).entries[0]
        assert (entry.scenes, entry.start) == (((0.0, "a cat"),), None) and entry.start_fault


@given(st.binary(max_size=200), st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(content)
    try:
        assert all(text for entry in read_prompt_file(path).entries for _, text in entry.scenes)
    except ConfigError as error:
        assert (error.key, error.value) == ("prompts", path)


@pytest.mark.parametrize(
    "scenes",
    [
        None,
        [],
        [[1, "a"]],
        [[0, "a"], [0, "b"]],
        [["0", "a"]],
        [[True, "a"]],
        [[0, 1]],
        [[0, "a"], [10**400, "b"]],
        [[0, "a"], [float("nan"), "b"]],
    ],
)
def test_a_schedule_has_pairs_whose_seconds_rise_from_0(scenes):
    assert schedule_problem(scenes) and schedule_problem([[0, "a"], [1.5, "b"]]) is None
