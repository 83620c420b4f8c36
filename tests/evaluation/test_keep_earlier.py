"""A table of other videos never overwrites an earlier one, nor its page."""

import json

import pytest

from evaluation.evaluation_table import keep_earlier


def write(folder, text: str):
    table, page = folder / "table.json", folder / "page.html"
    table.write_text(text)
    page.write_text(text)
    return table, page


@pytest.mark.parametrize("text", ['{"a": 1}', "half a fi", "[1]"])
def test_another_table_is_renamed_with_its_page_and_both_keep_their_content(tmp_path, text):
    for number in (1, 2):
        table, page = write(tmp_path, text)
        note = keep_earlier(table, page, lambda before: before["a"] == 2)
        assert note and not table.exists() and not page.exists()
        kept = [tmp_path / f"table_{number}.json", tmp_path / f"page_{number}.html"]
        assert [one.read_text() for one in kept] == [text, text] and all(one.name in note for one in kept)


def test_the_same_table_stays_and_none_is_no_table(tmp_path):
    table, page = write(tmp_path, json.dumps({"a": 2}))
    assert keep_earlier(table, page, lambda before: before["a"] == 2) is None and table.exists() and page.exists()
    assert keep_earlier(tmp_path / "none.json", page, lambda before: True) is None
