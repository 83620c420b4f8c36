"""A file of JSON lines after a kill: whole lines stay, the unfinished one is cut off."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from models.json_lines import append_line, complete_lines

RECORDS = [{"text": "a\nb\u2028c \u00e9"}, {"number": 3}, {}]


def test_whatever_byte_a_kill_comes_at_complete_lines_stay_and_the_next_is_whole(tmp_path):
    path = tmp_path / "x.jsonl"
    full = b"".join((json.dumps(record) + "\n").encode() for record in RECORDS)
    for length in range(len(full) + 1):
        path.write_bytes(full[:length])
        count = full[:length].count(b"\n")
        assert [json.loads(line) for line in complete_lines(path)] == RECORDS[:count]
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        append_line(descriptor, {"new": 1})
        os.close(descriptor)
        assert [json.loads(line) for line in complete_lines(path)] == [*RECORDS[:count], {"new": 1}]


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
