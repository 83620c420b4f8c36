"""benchmarks.house counts what a small checkout holds."""

import re
import subprocess

import pytest

import settings
from benchmarks.house import circles, measure, misses, modules_of

HOUSE = ("actors", "cluster", "evaluation", "learner", "models", "reports", "rewards", "settings", "tests")
FILES = {
    "models/flow.py": "def shared():\n    pass\n",
    "cluster/pool/__init__.py": "",
    "cluster/pool/slots.py": "from cluster.pool import supervisor\n\n\ndef shared(x, keys: list[Config]):\n    pass\n",
    "cluster/pool/supervisor.py": "import cluster.pool.slots\n\n\nclass Slot:\n    def fill(self):\n        pass\n",
    "tests/test_flow.py": "def test():\n    pass\n",
    "benchmarks/flow.py": "x = 1\n",
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def test_only_production_files_count_and_each_measure_is_that_of_the_files(checkout):
    measures = measure(modules_of(checkout))
    assert (measures["files"], measures["lines"], measures["functions_per_1000_lines"]) == (4, 13, 230.8)
    assert (measures["most_files_in_a_room"], measures["its_room"]) == (2, "cluster/pool")
    assert (measures["largest_room_percent"], measures["largest_room"]) == (84.6, "cluster/pool")
    assert measures["first_level_percent"] == {"cluster": 84.6, "models": 15.4}
    assert measures["functions_with_the_whole_config"] == 1
    assert measures["import_circles"] == [["cluster.pool.slots", "cluster.pool.supervisor"]]
    assert measures["public_names_in_several_modules"] == ["shared"]
    assert measures["file_names_that_occur_twice"] == []


def test_what_is_above_its_bound_is_listed(checkout):
    assert misses(measure(modules_of(checkout))) == [
        "functions_per_1000_lines", "largest_room_percent", "import_circles", "public_names_in_several_modules"
    ]  # fmt: skip


def test_this_checkout_is_within_every_bound():
    assert misses(measure(modules_of(settings.ROOT))) == []


@pytest.mark.parametrize(
    ("edges", "components"),
    [
        ({"a": "b", "b": "c", "c": ""}, []),
        ({"a": "b", "b": "a", "c": "ab"}, [["a", "b"]]),
        ({"a": "b", "b": "c", "c": "a", "d": "e", "e": "d"}, [["a", "b", "c"], ["d", "e"]]),
    ],
)
def test_circles_are_the_components_of_more_than_one(edges, components):
    assert sorted(circles(edges)) == components


def test_only_benchmarks_and_their_tests_import_benchmarks():
    own = settings.ROOT.glob("*.py")
    others = [path for name in HOUSE for path in (settings.ROOT / name).rglob("*.py")]
    for path in [*own, *others]:
        imports = re.search(r"(?m)^\s*(from|import) benchmarks\b", path.read_text())
        assert not imports or "tests/benchmarks" in path.as_posix(), path
