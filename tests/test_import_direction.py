"""Imports point one way: __init__ -> nodes -> lora_core -> torch; only comfy_bridge touches comfy."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from lora_pack.devtools.structure import between_parts, circles, imports_within, parts_of

ROOT = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution", "nodes"}
CORE_LIBRARIES = {"torch", "safetensors", "numpy", "PIL"}
# The parts at the top of each package in the way of the data: a part imports of earlier rows alone, never of its own.
ORDER = {
    "lora_core": (
        {"errors.py"},
        {"files", "names", "adapters"},
        {"loading"},
        {"weave", "file_work"},
        {"training"},
        {"cli"},
        {"__main__.py"},
    ),
    "nodes": (
        {"comfy_bridge", "pictures"},
        {"host_files"},
        {"page", "sockets"},
        {"apply", "file_work", "train"},
    ),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "subprocess", "urllib", "http", "socket", "requests", "pip"}


def _sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(dots, module) of every import in a file, also of those inside functions."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def _depth(path: Path, folder: str) -> int:
    """How many dots lead from a file to its folder's own package."""
    return len(path.relative_to(ROOT / folder).parts)


@pytest.mark.parametrize("path", _sources("lora_core"), ids=_name)
def test_the_core_knows_no_host_and_reaches_for_nothing_outside_itself(path: Path) -> None:
    import sys

    for dots, module in _imports(path):
        top = module.split(".")[0]
        assert dots <= _depth(path, "lora_core"), f"{path} leaves lora_core"
        if dots == 0:
            assert top in CORE_LIBRARIES or top in sys.stdlib_module_names, f"{path} imports {module}"
            assert top not in HOST


@pytest.mark.parametrize("path", _sources("nodes"), ids=_name)
def test_only_the_bridge_touches_comfy(path: Path) -> None:
    tops = {module.split(".")[0] for dots, module in _imports(path) if dots == 0}
    assert "comfy" not in tops or path.parent.name == "comfy_bridge"


@pytest.mark.parametrize("path", [*_sources("lora_core"), *_sources("nodes"), ROOT / "__init__.py"], ids=_name)
def test_no_code_is_run_from_data_and_no_network_is_used(path: Path) -> None:
    calls = {
        node.func.id for node in ast.walk(_tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    tops = {module.split(".")[0] for dots, module in _imports(path) if dots == 0}
    assert not calls & FORBIDDEN_CALLS
    assert not tops & FORBIDDEN_MODULES


@pytest.mark.parametrize("path", [*_sources("lora_core"), *_sources("nodes")], ids=_name)
def test_every_module_says_in_its_first_line_what_it_owns(path: Path) -> None:
    text = ast.get_docstring(_tree(path))
    assert text and (text.split("\n")[0].endswith((".", ":", ",")) or "\n" in text)


@pytest.mark.parametrize("path", [*_sources("lora_core"), *_sources("nodes")], ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.name}"


@pytest.mark.parametrize("package", ORDER)
def test_imports_between_folders_go_the_way_of_the_data(package: str) -> None:
    place = {part: number for number, row in enumerate(ORDER[package]) for part in row}
    graph = between_parts(imports_within(ROOT, package), parts_of(ROOT, package))
    assert graph.keys() == place.keys(), "a new part has its place in ORDER"
    back = [(part, target) for part, targets in graph.items() for target in targets if place[target] >= place[part]]
    assert back == []


@pytest.mark.parametrize("package", ORDER)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    found: dict[str, set[str]] = {}
    for each in imports_within(ROOT, package):
        found.setdefault(str(each.source), set()).add(str(each.target))
    assert circles({source: frozenset(targets) for source, targets in found.items()}) == []


def test_a_folder_holds_at_most_two_dozen_modules() -> None:
    folders = {path.parent for package in ORDER for path in _sources(package)}
    assert {str(f.relative_to(ROOT)) for f in folders if len(list(f.glob("*.py"))) > 24} == set()


def test_the_packs_entry_imports_the_nodes_and_nothing_else() -> None:
    assert {(dots, module) for dots, module in _imports(ROOT / "__init__.py")} == {(1, "nodes")}


def test_no_file_is_a_bag_of_leftovers() -> None:
    names = {path.stem for folder in ("lora_core", "nodes") for path in _sources(folder)}
    assert not names & {"utils", "util", "helpers", "common", "misc", "manager", "v2"}
