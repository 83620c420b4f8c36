"""The page of results has one row per line, names its commit, and says what failed."""

import json

import pytest

import settings
from benchmarks import all_results
from benchmarks.all_results import MEASUREMENTS, BenchmarksFailed, BenchOptions, Measurement, lines_of, main, page
from models.errors import ConfigError

LINE = {
    "name": "speed", "value": 2.0, "unit": "m/s", "limit": 4.0, "share": 0.5, "spread": [1.0, 3.0], "repeats": 3,
    "device": "cpu", "config": {"model": "tiny", "layers": None},
}  # fmt: skip


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_a_page_has_one_row_per_line_with_value_limit_and_share():
    text = page([LINE, LINE | {"limit": None, "share": None}], [], "0123456789abcdef", 1.0)
    assert rows(text) == [
        "| speed | model=tiny (cpu) | 2 | m/s | 1 to 3 | 4 | 50% |",
        "| speed | model=tiny (cpu) | 2 | m/s | 1 to 3 |  |  |",
    ]


def test_a_tree_with_changes_is_marked_on_the_page():
    assert "0123456789ab" in page([], [], "0123456789abcdef", 1.0)
    assert "with changes" in page([], [], "0123456789abcdef with changes", 1.0)
    assert "with changes" not in page([], [], "0123456789abcdef", 1.0)


def test_without_a_commit_nothing_is_run_or_written(tmp_path, monkeypatch):
    monkeypatch.setattr(all_results, "commit", lambda: "unknown")
    monkeypatch.setattr(all_results, "lines_of", lambda measurement: pytest.fail("it ran"))
    with pytest.raises(ConfigError) as refused:
        main(BenchOptions(out=str(tmp_path / "page.md")))
    assert refused.value.key == "out" and not list(tmp_path.iterdir())


def test_an_unknown_benchmark_is_refused_by_its_name():
    with pytest.raises(ConfigError) as refused:
        main(BenchOptions(only=["rollout"]))
    assert (refused.value.key, refused.value.value) == ("only", "rollout")


def test_a_failed_benchmark_keeps_its_lines_and_is_named_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(all_results, "commit", lambda: "0123456789abcdef")
    monkeypatch.setattr(all_results, "lines_of", lambda one: ([LINE], one.module == "decoupling" and "decoupling: no"))
    with pytest.raises(BenchmarksFailed):
        main(BenchOptions(out=str(tmp_path / "page.md")))
    text = (tmp_path / "page.md").read_text()
    assert len(rows(text)) == len(MEASUREMENTS) and "- decoupling: no" in text


@pytest.mark.parametrize(
    ("program", "limit_s", "lines", "failure"),
    [
        (f"print({json.dumps(json.dumps({'a': 1}))})", 20, [{"a": 1}], None),
        ("import sys; print('{\"a\": 1}'); sys.exit('broken')", 20, [{"a": 1}], "broken"),
        ("import time; time.sleep(60)", 0.5, [], "0.5 s"),
    ],
    ids=["a line", "an error", "too long"],
)
def test_a_benchmark_gives_its_lines_and_its_failure(tmp_path, monkeypatch, program, limit_s, lines, failure):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/made.py").write_text(program)
    monkeypatch.setattr(all_results.settings, "ROOT", tmp_path)
    found, text = lines_of(Measurement("made", (), limit_s))
    assert found == lines and (text is None if failure is None else failure in text)


def test_every_measurement_is_a_benchmark_of_this_folder_and_all_fit_twelve_minutes():
    assert all((settings.ROOT / f"benchmarks/{one.module}.py").exists() for one in MEASUREMENTS)
    assert sum(one.limit_s for one in MEASUREMENTS) <= 720
