"""Measure the structure of the checkout: sizes of rooms, functions per 1,000 lines, import circles, repeated names.

  python -m benchmarks.house [FOLDER]      one JSON object; per-folder rows on standard error

A room is a folder with the files that lie directly in it. Production code is everything but tests/ and benchmarks/.
"""

import ast
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

_SEPARATE = ("tests/", "benchmarks/", ".ci/")


def production_files(root: Path) -> list[Path]:
    """Python files under version control that are neither tests nor benchmarks."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split() if not name.startswith(_SEPARATE) and (root / name).is_file()]


def imports_of(tree: ast.Module, modules: set[str]) -> set[str]:
    """Names of our own modules that `tree` imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & modules


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

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
                found.append(sorted(component))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def takes_whole_config(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a parameter is annotated with the whole `Config` of a run."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return any(isinstance(node, ast.Name) and node.id in ("Config", "Scan")
               for argument in arguments if argument.annotation for node in ast.walk(argument.annotation))  # fmt: skip


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    files = production_files(root)
    trees = {path: ast.parse((root / path).read_text()) for path in files}
    lines = {path: len((root / path).read_text().splitlines()) for path in files}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    edges = {name: imports_of(trees[path], set(modules)) - {name} for name, path in modules.items()}
    functions = {path: [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
                 for path, tree in trees.items()}  # fmt: skip
    whole, total = sum(lines.values()), sum(map(len, functions.values()))
    rooms: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        rooms[str(path.parent)].append(path)
    for room in sorted(rooms):
        size = sum(lines[path] for path in rooms[room])
        made = sum(len(functions[path]) for path in rooms[room])
        sources = sum(path.name != "__init__.py" for path in rooms[room])
        print(f"{room:24} {sources:3} files {size:6} lines {size / whole:6.1%} {1000 * made / max(size, 1):5.0f} "
              f"functions per 1,000 lines", file=sys.stderr)  # fmt: skip
    public = Counter(
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_") and node.name != "main"
    )  # fmt: skip
    configured = [
        f"{path}:{function.name}"
        for path in files
        if path.parts[0] == "cluster"
        for function in functions[path]
        if takes_whole_config(function)
    ]
    print(json.dumps({
        "files": len(files),
        "lines": whole,
        "functions_per_1000_lines": round(1000 * total / whole, 1),
        "import_circles": circles(edges),
        "most_source_files_in_a_folder": max(
            (sum(path.name != "__init__.py" for path in paths), room) for room, paths in rooms.items()
        ),
        "largest_room_share": max((round(sum(lines[p] for p in paths) / whole, 3), r) for r, paths in rooms.items()),
        "functions_that_take_the_whole_config": len(configured),
        "public_names_in_several_modules": sorted(name for name, count in public.items() if count > 1),
        "file_names_that_occur_twice": sorted(
            name for name, count in Counter(path.name for path in files).items() if count > 1 and name != "__init__.py"
        ),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
