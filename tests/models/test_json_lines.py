"""A file of JSON lines after a kill: whole lines stay, the unfinished one is cut off."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.json_lines import append_line, complete_lines, end_last_line

RECORDS = [{"text": "a\nb\u2028c \u00e9"}, {"number": 3}, {}]


def test_whatever_byte_a_kill_comes_at_complete_lines_stay_and_the_next_is_whole(tmp_path):
    path = tmp_path / "x.jsonl"
    full = b"".join((json.dumps(record) + "\n").encode() for record in RECORDS)
    for length in range(len(full) + 1):
        path.write_bytes(full[:length])
        count = (full[:length] + b"\n").count(b"}\n")
        assert [json.loads(line) for line in complete_lines(path)] == RECORDS[:count]
        assert path.read_bytes() == full[:length]
        end_last_line(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        append_line(descriptor, {"new": 1})
        os.close(descriptor)
        assert [json.loads(line) for line in complete_lines(path)] == [*RECORDS[:count], {"new": 1}]


@pytest.mark.parametrize("content", [b"a prompt", b"{}\na prompt", b"[1,", b'{"a": 1}'])
def test_the_last_line_of_another_file_is_a_line_and_stays(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert complete_lines(path) == content.split(b"\n")
    end_last_line(path)
    assert path.read_bytes() == content + b"\n"


def test_no_file_has_no_lines(tmp_path):
    assert complete_lines(tmp_path / "x") == [] and not (tmp_path / "x").exists()


@given(
    st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False, allow_infinity=False))
)
def test_any_record_is_one_line_and_comes_back(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    append_line(descriptor, record)
    os.close(descriptor)
    assert [json.loads(line) for line in complete_lines(path)] == [record]
