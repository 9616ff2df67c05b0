"""Keeps named sets of rows in a person's own folder of the host, so that any stack can take them up again."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ...lora_core import FileDamaged
from ...lora_core.errors import BadSetting
from ...lora_core.files.safetensors_writer import write_whole

FILE = "lora_loom/stack_templates.json"  # in the person's folder
NAME_AT_MOST = 80  # characters
ROWS_AT_MOST = 100_000  # characters of one template
TEMPLATES_AT_MOST = 500
_WRITING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Templates:
    """All templates of a person: name -> rows in line syntax."""

    templates: Mapping[str, str] = field(default_factory=dict[str, str])


def read_templates(path: Path) -> Templates:
    """The templates in a file; none if it is not there. Raises FileDamaged."""
    try:
        fields: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Templates()
    except (OSError, ValueError, RecursionError) as error:
        raise FileDamaged(path.name, f"the templates can't be read ({str(error)[:80]})", "Repair it.") from None
    if not isinstance(fields, dict):
        raise FileDamaged(path.name, "it holds no table of templates", "Repair it.")
    table = cast("dict[str, Any]", fields)
    return Templates({name: rows for name, rows in table.items() if isinstance(rows, str)})


def save_template(path: Path, name: str, rows: str) -> Templates:
    """With one template added or replaced. Raises BadSetting for a name or rows that can't be kept, FileDamaged."""
    _check_name(name)
    if len(rows) > ROWS_AT_MOST:
        raise BadSetting(f"the rows have {len(rows)} characters, {ROWS_AT_MOST} are kept at most")
    with _WRITING:
        kept = {**read_templates(path).templates, name: rows}
        if len(kept) > TEMPLATES_AT_MOST:
            raise BadSetting(f"{TEMPLATES_AT_MOST} templates are kept at most; remove one first")
        return _write(path, kept)


def remove_template(path: Path, name: str) -> Templates:
    """Without one template; one that is not there is no error."""
    _check_name(name)
    with _WRITING:
        return _write(path, {other: rows for other, rows in read_templates(path).templates.items() if other != name})


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_AT_MOST or not name.isprintable():
        raise BadSetting(f"a template's name has 1 to {NAME_AT_MOST} printable characters, found {name[:100]!r}")


def _write(path: Path, templates: Mapping[str, str]) -> Templates:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(templates.items())), indent=1, ensure_ascii=False)
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
    return Templates(dict(sorted(templates.items())))
