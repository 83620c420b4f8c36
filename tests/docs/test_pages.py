"""README, CONTRIBUTING and docs/: links, commands, keys, paths and make targets that they name exist."""

import re
import shlex
import subprocess

import pytest

import settings
from tests.docs import reference
from tests.docs.documented import ROOT, lines_of_blocks, metric_keys, pages

KEYS = [line.split() for line in (ROOT / "tests/golden/keys.txt").read_text().splitlines()]
OWN = {command: {key for owner, key in KEYS if owner == command} for command in reference.COMMANDS}
OWN |= {"tune": OWN["tune"] | OWN["train"], "plan": OWN["plan"] | OWN["train"], "demo": OWN["train"]}
GROUPS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
ENDINGS = {"csv", "json", "jsonl", "md", "mp4", "png", "py", "safetensors", "yaml"}
FENCE = re.compile(r"(?ms)^```.*?^```$")
every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def inline_code(page):
    """Text between backticks, outside of blocks; a line break inside is a space."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))]


def commands_of(page):
    """Commands of our own that a page gives in blocks or between backticks, each as words without a comment."""
    given = [line for line in [*lines_of_blocks(page), *inline_code(page)] if re.search(r"\bpython (-m )?[\w.]+", line)]
    return [shlex.split(line[line.index("python ") :], comments=True) for line in given]


def anchors(page):
    """Anchors of the headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@every_page
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@every_page
def test_every_command_and_every_key_in_it_exists(page):
    for words in commands_of(page):
        module = words[1] == "-m"
        name = words[2] if module else words[1].removesuffix(".py")
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), words
        for word in words[3 if module else 2 :]:
            key = word.partition("=")[0]
            if word.startswith("--") or "=" not in word or name not in OWN:
                break
            assert key in OWN[name] | GROUPS, f"{key} in {' '.join(words)}"


@every_page
def test_every_key_between_backticks_exists(page):
    keys = set().union(*OWN.values())
    groups = {key.partition(".")[0] for key in keys if "." in key}
    for code in inline_code(page):
        match = re.fullmatch(r"([a-z_]+)\.([a-z_0-9]+)(=.*)?", code)
        if match and match[1] in groups and match[2] not in ENDINGS:
            assert f"{match[1]}.{match[2]}" in keys, f"`{code}` in {page.name}"


@every_page
def test_every_path_between_backticks_exists(page):
    tops = {path.partition("/")[0] for path in TRACKED if "/" in path}
    for code in inline_code(page):
        if re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", code) and "/" in code and code.partition("/")[0] in tops:
            exists = (ROOT / code).exists() or (ROOT / f"{code}.py").exists()
            metric = code.split("/")[0] in ("learner", "rollout") or code in metric_keys()
            assert exists or metric, f"`{code}` in {page.name}"


@every_page
def test_every_make_target_exists(page):
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = re.findall(r"(?m)^make ([a-z-]+)", "\n".join([*lines_of_blocks(page), *inline_code(page)]))
    assert set(named) <= targets


@every_page
def test_lines_outside_of_tables_and_blocks_have_120_columns_at_most(page):
    for line in FENCE.sub("", page.read_text()).splitlines():
        assert len(line) <= 120 or line.startswith("|"), f"{page.name}: {line}"


def configurations():
    """Arguments of train.py in every page, but those with an ellipsis."""
    for page in pages():
        for words in commands_of(page):
            if words[1] == "train.py" and "--help" not in words and "..." not in words:
                yield pytest.param(words[2:], id=f"{page.stem} {' '.join(words[2:])[:60]}")


@pytest.mark.parametrize("arguments", list(configurations()))
def test_every_configuration_that_a_page_gives_composes(arguments):
    settings.load([argument for argument in arguments if "=" in argument])


def test_the_readme_has_150_lines_at_most_and_its_map_is_the_tree():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    table = readme.partition("## Repository map")[2].partition("\n## ")[0]
    first_cells = re.findall(r"(?m)^\| (`[^|]+) \|", table)
    mapped = {name.rstrip("/") for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    folders = {path.partition("/")[0] for path in TRACKED if "/" in path and not path.startswith(".")}
    assert mapped == folders | {path for path in TRACKED if re.fullmatch(r"\w+\.py", path)}


def test_the_site_lists_every_page_and_the_index_every_record():
    nav = (ROOT / "mkdocs.yml").read_text()
    index = (ROOT / "docs/decisions/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        if re.match(r"decisions/\d{4}-", name):
            assert f"]({page.name})" in index and re.search(
                r"(?m)^Status: (accepted|superseded by \d{4})$", page.read_text()
            )
        else:
            assert f": {name}\n" in nav, f"mkdocs.yml does not list {name}"


def test_the_page_of_keys_is_what_the_commands_print():
    assert reference.PAGE.read_text() == reference.page(), "write it again: python -m tests.docs.reference"
