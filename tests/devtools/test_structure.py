"""The structure command counts parts, layers and circles of small packages rightly."""

from pathlib import Path

import pytest
from lora_pack.devtools.structure import between_parts, circles, imports_within, layers, main, parts_of


def _package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def _graph(root: Path) -> dict[str, frozenset[str]]:
    return dict(between_parts(imports_within(root, "pack"), parts_of(root, "pack")))


def test_imports_of_modules_and_of_names_in_them_are_found_also_inside_functions(tmp_path: Path) -> None:
    root = _package(
        tmp_path,
        {
            "low.py": "one = 1",
            "middle/__init__.py": "from ..low import one",
            "high.py": "def run():\n    from .middle import one\n    from . import low\n",
        },
    )
    assert _graph(root) == {
        "low.py": frozenset(),
        "middle": frozenset({"low.py"}),
        "high.py": frozenset({"middle", "low.py"}),
    }
    assert layers(_graph(root)) == 3
    assert circles(_graph(root)) == []


def test_a_circle_is_found_and_counts_as_one_layer(tmp_path: Path) -> None:
    root = _package(tmp_path, {"a.py": "from .b import x", "b.py": "from .a import y", "c.py": "from . import a"})
    assert circles(_graph(root)) == [("a.py", "b.py")]
    assert layers(_graph(root)) == 2


def test_the_table_has_a_row_for_each_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _package(tmp_path, {"a.py": "from .b import x", "b.py": "def x():\n    pass\n"})
    assert main(["pack", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "| pack | 2 | 2 | 1 | 0 | 0 |" in said
    assert "2 lines: pack/b.py:x" in said


def test_a_folder_that_is_no_package_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--root", str(tmp_path)]) == 2
    assert "no package pack" in capsys.readouterr().err
