"""Where training prompts come from, and in which order they are dealt out."""

import json
import re
from collections import Counter

import pytest

from actors.prompt_config import PromptConfig
from actors.prompts import TrainingPrompts, prompt_texts, read_prompts
from models.errors import ConfigError

CONFIG = PromptConfig(min_characters=3, max_characters=20)


def written(path, content: str):
    path.write_text(content, encoding="utf-8")
    return path


# -- the order --------------------------------------------------------------------------------------------------------


def test_every_epoch_has_every_prompt_once_in_an_order_of_its_own():
    prompts = TrainingPrompts([f"prompt {i}" for i in range(50)], seed=3)
    epochs = [[prompts.prompt(50 * epoch + i) for i in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(prompts) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(prompts)


def test_a_prompt_is_a_function_of_seed_and_number_whatever_was_asked_before():
    texts = [f"prompt {i}" for i in range(7)]
    in_order = TrainingPrompts(texts, seed=1)
    expected = [in_order.prompt(i) for i in range(40)]
    jumping = TrainingPrompts(texts, seed=1)
    assert [jumping.prompt(i) for i in reversed(range(40))] == expected[::-1]
    assert TrainingPrompts(texts, seed=1).prompt(33) == expected[33], "a resumed run keeps nothing but the number"
    other = TrainingPrompts(texts, seed=2)
    assert [other.prompt(i) for i in range(40)] != expected


def test_the_first_places_of_the_epochs_are_evenly_spread_over_the_prompts():
    prompts = TrainingPrompts(["red", "green", "blue"], seed=0)
    first = Counter(prompts.prompt(3 * epoch) for epoch in range(3000))
    assert min(first.values()) > 900


def test_they_are_a_sequence_in_the_order_of_the_file():
    prompts = TrainingPrompts(["one", "two", "three"], seed=0)
    assert len(prompts) == 3 and prompts[1] == "two" and list(prompts) == ["one", "two", "three"]


def test_no_prompts_are_refused():
    with pytest.raises(ConfigError) as caught:
        TrainingPrompts([], seed=0)
    assert caught.value.key == "prompts"


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_prompt_a_line_without_blank_lines_and_needless_spaces(tmp_path):
    path = written(tmp_path / "a.txt", "a cat\n\n  a   dog \n\tein Löwe\n")
    assert read_prompts(path, CONFIG).texts == ("a cat", "a dog", "ein Löwe")


@pytest.mark.parametrize("name", ["prompt", "text", "caption"])
def test_jsonl_keeps_prompts_under_the_first_known_name(tmp_path, name):
    lines = [json.dumps({"id": 1, name: "a cat\nasleep"}), json.dumps({name: "a dog", "zzz": "no"})]
    assert read_prompts(written(tmp_path / "a.jsonl", "\n".join(lines)), CONFIG).texts == ("a cat asleep", "a dog")


@pytest.mark.parametrize("name", ["prompt", "text", "caption"])
def test_parquet_keeps_them_in_a_column(tmp_path, name):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": [1, 2], name: ["a cat", "a dog"]}), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet", CONFIG).texts == ("a cat", "a dog")


def test_what_is_dropped_is_counted_by_reason_and_said_in_a_line(tmp_path):
    path = written(tmp_path / "a.txt", "a cat\nA  Cat\nx\n" + 21 * "y" + "\na dog\n" + 20 * "z" + "\na cat\n")
    found = read_prompts(path, CONFIG)
    assert found.texts == ("a cat", "a dog", 20 * "z")
    assert found.dropped == {"too short": 1, "too long": 1, "twice": 2}
    assert re.findall(r"\d+", str(found)) == ["3", "1", "1", "2"] and all(
        reason in str(found) for reason in found.dropped
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.md", "a cat", r"\.txt, \.jsonl, \.json, \.csv, \.tsv, \.parquet"),
        ("a.txt", "x\ny\n", r"\b2\b"),
        ("a.txt", "", r"\b0\b"),
        ("a.jsonl", '{"prompt": "a cat"}\n{"prompt": ', r"\b2\b.*JSON"),
        ("a.jsonl", "7", r"\b1\b.*int"),
        ("a.jsonl", '{"words": "a cat"}', r"\b1\b.*prompt, prompt_en, text, caption"),
        ("a.jsonl", '{"prompt": 7}', r"\b1\b.*int"),
        ("a.parquet", "PAR1", "parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_answered_in_a_line_that_names_it(tmp_path, name, content, said):
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        read_prompts(path, CONFIG)
    assert re.search(said, caught.value.problem + caught.value.fix)
    assert (caught.value.key, caught.value.value) == ("prompts", path) and "\n" not in str(caught.value)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^prompts=.*none\.txt: "):
        read_prompts(tmp_path / "none.txt", CONFIG)
    (tmp_path / "b.txt").write_bytes(b"a cat\n\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"^prompts=.*b\.txt: .*UTF-8 .*byte 6"):
        read_prompts(tmp_path / "b.txt", CONFIG)


def test_prompts_that_differ_in_the_form_of_their_accents_are_one(tmp_path):
    path = written(tmp_path / "a.txt", "ein L\u00f6we\nein Lo\u0308we\n")
    found = read_prompts(path, CONFIG)
    assert found.texts == ("ein L\u00f6we",) and found.dropped["twice"] == 1


def test_unusable_entries_are_counted_with_the_dropped_ones(tmp_path):
    lines = [json.dumps({"prompt": f"prompt {i}"}) for i in range(19)] + [json.dumps({"prompt": 7})]
    found = read_prompts(written(tmp_path / "a.jsonl", "\n".join(lines)), CONFIG)
    assert len(found.texts) == 19 and found.dropped["no text"] == 1


def test_judged_prompts_have_no_gaps(tmp_path):
    lines = [json.dumps({"prompt": f"prompt {i}"}) for i in range(19)] + [json.dumps({"prompt": ""})]
    path = written(tmp_path / "a.jsonl", "\n".join(lines))
    with pytest.raises(ConfigError) as error:
        prompt_texts(path)
    assert (error.value.key, error.value.value) == ("prompts", path) and "20" in error.value.problem


@pytest.mark.parametrize("read", [lambda path: read_prompts(path, CONFIG), prompt_texts])
def test_schedules_are_for_generation_only(tmp_path, read):
    path = written(tmp_path / "a.jsonl", json.dumps({"prompts": ["a cat", "a dog"]}))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert error.value.key == "prompts" and "a cat" in error.value.problem


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"min_characters": 0}, "prompt.min_characters="),
        ({"min_characters": 30, "max_characters": 20}, "prompt.max_characters="),
        ({"retries": -1}, "prompt.retries="),
        ({"parallel": 0}, "prompt.parallel="),
        ({"url": "endpoint"}, "prompt.url: "),
        ({"url": "http://me:secret@host/v1"}, "prompt.url: "),
    ],
)
def test_a_wrong_key_is_named(keys, named):
    with pytest.raises(ValueError) as caught:
        PromptConfig(**keys)
    assert named in str(caught.value) and "secret" not in str(caught.value)


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfa cat on a mat\r\n")
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a cat on a mat"}\r\n')
    for name in ("p.txt", "p.jsonl"):
        assert read_prompts(tmp_path / name, PromptConfig()).texts == ("a cat on a mat",)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name in ("p.txt", "p.jsonl", "p.parquet"):
        (tmp_path / name).symlink_to("/proc/self/mem")
        with pytest.raises(ValueError, match=rf"^prompts={tmp_path / name}: "):
            read_prompts(tmp_path / name, PromptConfig())
