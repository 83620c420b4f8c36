"""Measure the structure of a checkout: sizes of folders, functions, import circles, repeated names.

  python -m benchmarks.house [FOLDER]     one JSON line, and a row per folder on standard error

A room is a folder with the files directly in it; production code is everything but tests/, benchmarks/ and .ci/.
Compare with an earlier commit: `git worktree add ../before COMMIT && python -m benchmarks.house ../before`.
"""

import ast
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

NOT_PRODUCTION = ("tests/", "benchmarks/", ".ci/")
WHOLE = ("Config", "Scan")
"""Classes that hold all keys of a run."""
BOUNDS = {
    "functions_per_1000_lines": 55,
    "most_files_in_a_room": 20,
    "largest_room_percent": 15,
    "longest_file_lines": 300,
    "functions_with_the_whole_config": 24,
}
"""Largest allowed values. All measures that list names must be empty."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """Holds a production file: its import name, lines and syntax tree."""

    name: str
    path: Path
    lines: int
    tree: ast.Module

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def public_names(self) -> list[str]:
        """Name top-level functions and classes without an underscore; every command has a `main`."""
        named = (node.name for node in self.tree.body if isinstance(node, Function | ast.ClassDef))
        return [name for name in named if not name.startswith("_") and name != "main"]

    @property
    def imported(self) -> set[str]:
        """Name the modules that this one imports, anywhere in it; of `from a import b` both a and a.b."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return names


def modules_of(root: Path) -> list[Module]:
    """Parse every production file under version control."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.splitlines() if not name.startswith(NOT_PRODUCTION)]
    texts = {path: (root / path).read_text() for path in paths if (root / path).is_file()}
    return [
        Module(".".join(path.with_suffix("").parts).removesuffix(".__init__"), path, text.count("\n"), ast.parse(text))
        for path, text in texts.items()
    ]


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Find the strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in edges[node]:
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                components.append(sorted(component))

    for node in edges:
        if node not in index:
            visit(node)
    return components


def takes_whole_config(function: Function) -> bool:
    """Return whether a parameter is annotated with a class of `WHOLE`."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    annotations = [argument.annotation for argument in arguments if argument.annotation]
    return any(isinstance(node, ast.Name) and node.id in WHOLE for part in annotations for node in ast.walk(part))


def rooms_of(modules: Iterable[Module]) -> dict[str, list[Module]]:
    """Group modules by the folder that they lie in."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        rooms[module.path.parent.as_posix()].append(module)
    return dict(sorted(rooms.items()))


def measure(modules: list[Module]) -> dict[str, object]:
    """Compute every measure of `BOUNDS`, the lists of circles and repeated names, and each package's share of lines."""
    lines = sum(module.lines for module in modules)
    known = {module.name for module in modules}
    sources = [module for module in modules if module.path.name != "__init__.py"]
    rooms = rooms_of(modules).items()
    most = max((sum(m.path.name != "__init__.py" for m in members), room) for room, members in rooms)
    largest = max((round(100 * sum(m.lines for m in members) / lines, 1), room) for room, members in rooms)
    first_level = Counter()
    for module in modules:
        first_level[module.path.parts[0] if len(module.path.parts) > 1 else "."] += module.lines
    configured = [m for m in modules if m.path.parts[0] == "cluster" for f in m.functions if takes_whole_config(f)]
    return {
        "files": len(modules),
        "lines": lines,
        "functions_per_1000_lines": round(1000 * sum(len(module.functions) for module in modules) / lines, 1),
        "most_files_in_a_room": most[0],
        "its_room": most[1],
        "largest_room_percent": largest[0],
        "largest_room": largest[1],
        "first_level_percent": {name: round(100 * count / lines, 1) for name, count in sorted(first_level.items())},
        "longest_file_lines": max(module.lines for module in modules),
        "files_above_300_lines": sorted(m.path.as_posix() for m in modules if m.lines > BOUNDS["longest_file_lines"]),
        "functions_with_the_whole_config": len(configured),
        "import_circles": circles({m.name: (m.imported & known) - {m.name} for m in modules}),
        "public_names_in_several_modules": _repeated(name for module in modules for name in module.public_names),
        "file_names_that_occur_twice": _repeated(module.path.name for module in sources),
    }


def misses(measures: Mapping[str, object]) -> list[str]:
    """List the measures above their bounds, and the lists that are not empty."""
    above = [name for name, bound in BOUNDS.items() if measures[name] > bound]
    return above + [name for name, value in measures.items() if isinstance(value, list) and value]


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def main() -> None:
    modules = modules_of(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    whole = sum(module.lines for module in modules)
    for room, members in rooms_of(modules).items():
        lines, functions = sum(m.lines for m in members), sum(len(m.functions) for m in members)
        per = 1000 * functions / max(lines, 1)
        print(f"{room:24} {len(members):3} files {lines:6} lines {lines / whole:6.1%} {per:4.0f} functions per 1,000",
              file=sys.stderr)  # fmt: skip
    measures = measure(modules)
    print(json.dumps(measures | {"misses": misses(measures)}))


if __name__ == "__main__":
    main()
