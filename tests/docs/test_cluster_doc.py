"""docs/cluster/: every command is run by a test, or says that it needs more than we have."""

import ast
import re

import yaml

import settings
from tests.docs.documented import MARK, commands, documented

TESTS = settings.ROOT / "tests"
PAGES = "\n".join(page.read_text() for page in sorted((settings.ROOT / "docs/cluster").glob("*.md")))


def run_by_tests() -> set[str]:
    """What any test asks `documented` for."""
    calls = (
        node
        for file in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "documented"
    )
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def test_every_command_is_run_by_a_test_or_marked_as_needing_real_gpus():
    starts = run_by_tests()
    left = [line for line in commands() if MARK not in line and not any(line.startswith(start) for start in starts)]
    assert not left, f"no test runs {left}"
    assert len(commands()) > 20


def test_what_tests_run_stands_in_the_page():
    for start in run_by_tests():
        documented(start)


def test_only_what_needs_gpus_or_another_scheduler_is_marked():
    for line in commands():
        if MARK in line:
            elsewhere = line.startswith(("docker", "kubectl", "sbatch", "make gpu"))
            assert elsewhere or "preset=wan_1_3b" in line or "benchmarks.gpu_check" in line


def test_every_file_of_the_pages_exists():
    for path in re.findall(r"cluster/(?:kuberay|slurm)/[\w.]+|cluster/runtime_env.yaml", PAGES):
        assert (settings.ROOT / path).is_file()


def test_the_table_of_presets_says_what_they_hold():
    rows = dict(re.findall(r"(?m)^\| `(\w+)`[^|]*\| [^|]+ \| ([^|]*\| [^|]*) \|$", PAGES))
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (settings.ROOT / "conf/cluster").glob("*.yaml")}
    assert rows.keys() == presets.keys()
    for name, preset in presets.items():
        for number in (preset.get(key) for key in ("learner_ranks", "rollout_actors") if key in preset):
            assert re.search(rf"\b{number}\b", rows[name])
