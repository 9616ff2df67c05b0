"""`python -m devtools.structure`: how the packages stand: parts, imports between them, circles, longest places."""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from .layout import ROOT
from .stages import say

PACKAGES = ("lora_core", "nodes")
LONGEST = 5  # files and functions that are shown

Graph = Mapping[str, frozenset[str]]  # part -> the parts that it imports


@dataclass(frozen=True)
class Import:
    """One import between two modules of a package, as paths of their files relative to the package's parent."""

    source: Path
    target: Path
    line: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.structure", description=__doc__)
    parser.add_argument("packages", nargs="*", default=PACKAGES, help=f"default: {' '.join(PACKAGES)}")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    arguments = parser.parse_args(argv)
    missing = [name for name in arguments.packages if not (arguments.root / name / "__init__.py").is_file()]
    if missing:
        print(f"devtools.structure: no package {', '.join(missing)} in {arguments.root}", file=sys.stderr)
        return 2
    say("| | folders and files at the top | layers of imports | imports between them | backward | circles |")
    say("|---|---|---|---|---|---|")
    for package in arguments.packages:
        say(_row(arguments.root, package))
    _say_longest(arguments.root, arguments.packages)
    return 0


def _row(root: Path, package: str) -> str:
    imports = imports_within(root, package)
    graph = between_parts(imports, parts_of(root, package))
    found = circles(graph)
    return (
        f"| {package} | {len(graph)} | {layers(graph)} | {sum(map(len, graph.values()))} | "
        f"{sum(len(circle) for circle in found)} | {'; '.join(' <-> '.join(circle) for circle in found) or 0} |"
    )


def parts_of(root: Path, package: str) -> list[str]:
    """The folders and files at the top of a package; its own __init__ is a face, and no part."""
    entries = (root / package).iterdir()
    return sorted(e.name for e in entries if (e / "__init__.py").is_file() or _is_module(e))


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" and path.stem != "__init__"


def imports_within(root: Path, package: str) -> list[Import]:
    """Every relative import between two files of a package, also of those inside functions."""
    return list(chain.from_iterable(_imports_of(root, file) for file in sorted((root / package).rglob("*.py"))))


def _imports_of(root: Path, file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for target in {_file_of(base / alias.name) or _file_of(base) for alias in node.names}:
                if target is not None and target.is_relative_to(root):
                    yield Import(file.relative_to(root), target.relative_to(root), node.lineno)


def _file_of(module: Path) -> Path | None:
    """The file that holds a module named by its path without an ending."""
    return next((f for f in (module.with_name(module.name + ".py"), module / "__init__.py") if f.is_file()), None)


def between_parts(imports: Sequence[Import], parts: Sequence[str]) -> Graph:
    """The parts at the top of a package and what each imports of the others."""
    found: dict[str, set[str]] = {part: set() for part in parts}
    for each in imports:
        source, target = each.source.parts[1], each.target.parts[1]
        if each.source.parts[0] == each.target.parts[0] and source != target and {source, target} <= found.keys():
            found[source].add(target)
    return {part: frozenset(targets) for part, targets in found.items()}


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of nodes that all reach each other, each sorted; none where imports point one way."""
    reach = {part: _reached(graph, part) for part in graph}
    groups = {tuple(sorted({part, *(p for p in reach[part] if part in reach.get(p, ()))})) for part in graph}
    return sorted(group for group in groups if len(group) > 1)


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph.get(start, ()))
    while ahead:
        part = ahead.pop()
        if part not in found:
            found.add(part)
            ahead += graph.get(part, ())
    return found


def layers(graph: Graph) -> int:
    """The longest chain of imports, counted in parts; a circle counts as one."""
    one_of = {part: circle[0] for circle in circles(graph) for part in circle}
    merged: dict[str, set[str]] = {}
    for part, targets in graph.items():
        own = one_of.get(part, part)
        merged.setdefault(own, set()).update({one_of.get(target, target) for target in targets} - {own})
    depths: dict[str, int] = {}

    def depth(part: str) -> int:
        if part not in depths:
            depths[part] = 1 + max(map(depth, merged[part]), default=0)
        return depths[part]

    return max(map(depth, merged), default=0)


def _say_longest(root: Path, packages: Sequence[str]) -> None:
    files = sorted(chain.from_iterable((root / package).rglob("*.py") for package in packages))
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    functions = sorted((f for file in files for f in _functions(file)), reverse=True)
    counts = sorted(length for length, _, _ in functions)
    flat: dict[Path, int] = {}
    for file in files:
        flat[file.parent] = flat.get(file.parent, 0) + 1
    largest = max(flat, key=lambda folder: flat[folder])
    median, ninth = counts[len(counts) // 2], counts[len(counts) * 9 // 10]
    say(f"\nlines of a function: median {median}, p90 {ninth}, max {counts[-1]}")
    say(f"files in one folder: at most {flat[largest]} ({largest.relative_to(root)})")
    for file in sorted(files, key=lambda file: -lengths[file])[:LONGEST]:
        say(f"{lengths[file]} lines: {file.relative_to(root)}")
    for length, file, name in functions[:LONGEST]:
        say(f"{length} lines: {Path(file).relative_to(root)}:{name}")


def _functions(file: Path) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, str(file), node.name


if __name__ == "__main__":
    sys.exit(main())
