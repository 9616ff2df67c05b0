"""Reads LoRA stacks: the rows of this pack's own widget, and every form of LORA_STACK that node packs pass around.

A row of the widget may also have block strengths and a schedule behind its strengths:
<lora:name:0.8:blocks=in4=0.5;out*=0:schedule=0:0,0.3:1>. A name with : < > or spaces at its ends stands in double
quotes, and a double quote in it is written twice.

Forms in use: (name, model strength, CLIP strength); the same with block weights behind; a table of named fields.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..errors import LoraError, StackError
from .block_strengths import BlockStrengths, parse_block_strengths
from .schedule import Schedule, parse_schedule
from .strength_limit import BETWEEN, is_within_limit

EMPTY_NAMES = frozenset({"", "None", "none"})  # what packs write into a row without a file
ROWS_AT_MOST, TEXT_AT_MOST = 1_000, 500_000  # of a stack; characters of its text
OPENS = "<lora:"
OFF = "#"  # begins a line of text that is switched off
TAG = re.compile(
    r'<lora:(?P<name>"(?:[^"]|""){1,500}"(?=[:>])|[^:<>]+)'
    r"(?::(?!blocks=|schedule=)(?P<model>[^:<>]*))?(?::(?!blocks=|schedule=)(?P<clip>[^:<>]*))?"
    r"(?::blocks=(?P<blocks>[^:<>]*))?(?::schedule=(?P<schedule>[^<>]*))?>",
    re.IGNORECASE,
)

# Fields of a table row, in the spellings that packs use; the first that is there counts.
NAME_FIELDS = ("name", "lora_name", "lora", "file")
MODEL_FIELDS = ("strength_model", "model_strength", "strength", "weight")
CLIP_FIELDS = ("strength_clip", "clip_strength", "strengthTwo", "clip_weight")
ON_FIELDS = ("on", "active", "enabled")
BLOCKS_FIELD, SCHEDULE_FIELD = "blocks", "schedule"  # in a row of text; only this pack's

BLOCKS_NOTE = "block weights came with this row and were not applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRow:
    """One file of a stack."""

    name: str  # as in the host's list of LoRA files
    strength_model: float = 1.0
    strength_clip: float = 1.0
    on: bool = True
    blocks: BlockStrengths | None = None
    schedule: Schedule | None = None
    notes: Sequence[str] = ()  # what the row asked for that is not done

    def renamed(self, name: str) -> "StackRow":
        """The same row for a file of another name."""
        return replace(self, name=name)


class RowTuple(tuple[str, float, float]):
    """(name, model strength, CLIP strength), as every pack reads it, with what only this pack reads."""

    blocks: BlockStrengths | None = None
    schedule: Schedule | None = None


def as_tuples(rows: Iterable[StackRow]) -> list[RowTuple]:
    """The form that every pack reads: (name, model strength, CLIP strength). Others don't see blocks and schedule."""
    tuples: list[RowTuple] = []
    for row in rows:
        made = RowTuple((row.name, row.strength_model, row.strength_clip))
        made.blocks, made.schedule = row.blocks, row.schedule
        tuples.append(made)
    return tuples


def parse_stack(stack: Any) -> list[StackRow]:
    """The rows of a LORA_STACK of any pack that are on and name a file.

    Raises StackError listing every row that can't be read.
    """
    if not isinstance(stack, list | tuple):
        raise StackError([f"a list of rows was expected, found {type(stack).__name__}"])
    _check_count(len(cast("Sequence[Any]", stack)))
    return [row for row in _parse_each(cast("Sequence[Any]", stack)) if row.on and row.name not in EMPTY_NAMES]


def parse_rows(text: str) -> list[StackRow]:
    """The rows of the LoRA Stack node: lines of <lora:name:strength>, or a JSON list of tables.

    Raises StackError listing every row that can't be read.
    """
    if len(text) > TEXT_AT_MOST:
        raise StackError([f"at most {TEXT_AT_MOST} characters of rows were expected, found {len(text)}"])
    _check_count(text.lower().count(OPENS))
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            rows: object = json.loads(stripped)
        except (ValueError, RecursionError) as error:
            raise StackError([f"the rows are no valid JSON ({error})"]) from None
        _check_count(len(cast("Sequence[Any]", rows)))
        return _parse_each(cast("Sequence[Any]", rows))
    rows_of_lines: list[StackRow] = []
    reasons: list[str] = []
    for number, line in enumerate(stripped.splitlines(), start=1):
        try:
            rows_of_lines += _parse_line(line.strip())
        except ValueError as reason:
            reasons.append(f"line {number}: {reason}")
    if reasons:
        raise StackError(reasons)
    return rows_of_lines


def _check_count(rows: int) -> None:
    if rows > ROWS_AT_MOST:
        raise StackError([f"at most {ROWS_AT_MOST} rows were expected, found {rows}"])


def _parse_line(line: str) -> list[StackRow]:
    on = not line.startswith(OFF)
    content = line.lstrip(OFF).strip()
    rows = [_tag_row(found, on=on) for found in TAG.finditer(content)]
    rest = TAG.sub("", content).strip(" ,")
    if rest and on:
        raise ValueError(f"<lora:name:strength> was expected, found '{rest[:60]}'")
    return rows


def _tag_row(found: "re.Match[str]", *, on: bool) -> StackRow:
    model = _strength(found["model"] if found["model"] is not None else 1.0)
    clip = model if found["clip"] is None else _strength(found["clip"])
    blocks, schedule = _extras(found["blocks"], found["schedule"])
    name = _unquoted(found["name"])
    return StackRow(name=name, strength_model=model, strength_clip=clip, on=on, blocks=blocks, schedule=schedule)


def _unquoted(name: str) -> str:
    if len(name) > 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name.strip()


def _extras(blocks: Any, schedule: Any) -> tuple[BlockStrengths | None, Schedule | None]:
    """Both as their texts say; None where there is no text."""
    for field, text in ((BLOCKS_FIELD, blocks), (SCHEDULE_FIELD, schedule)):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{field} should be a text, found {text!r:.40}")
    try:
        return (
            None if blocks is None else parse_block_strengths(blocks),
            None if schedule is None else parse_schedule(schedule),
        )
    except LoraError as error:
        raise ValueError(str(error)) from None


def _parse_each(rows: Sequence[Any]) -> list[StackRow]:
    parsed: list[StackRow] = []
    reasons: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            parsed.append(_parse_row(row))
        except ValueError as reason:
            reasons.append(f"row {number}: {reason}")
    if reasons:
        raise StackError(reasons)
    return parsed


def _parse_row(row: Any) -> StackRow:
    if isinstance(row, Mapping):
        return _from_table(cast("Mapping[str, Any]", row))
    if isinstance(row, list | tuple):
        return _from_sequence(cast("Sequence[Any]", row))
    raise ValueError(f"(name, model strength, CLIP strength) was expected, found {type(row).__name__}")


def _from_sequence(row: Sequence[Any]) -> StackRow:
    if len(row) not in (2, 3, 4) or not isinstance(row[0], str):
        raise ValueError(f"(name, model strength, CLIP strength) was expected, found {len(row)} values: {row!r:.80}")
    model = _strength(row[1])
    clip = _strength(row[2]) if len(row) > 2 else model
    notes = (BLOCKS_NOTE,) if len(row) > 3 and row[3] else ()
    own = row if isinstance(row, RowTuple) else RowTuple()
    return StackRow(
        name=row[0],
        strength_model=model,
        strength_clip=clip,
        notes=notes,
        blocks=own.blocks,
        schedule=own.schedule,
    )


def _from_table(row: Mapping[str, Any]) -> StackRow:
    name = _first(row, NAME_FIELDS)
    if not isinstance(name, str):
        raise ValueError(f"no file name; one of the fields {', '.join(NAME_FIELDS)} was expected")
    model = _strength(_first(row, MODEL_FIELDS, 1.0))
    clip = _first(row, CLIP_FIELDS)
    blocks, schedule = _extras(row.get(BLOCKS_FIELD), row.get(SCHEDULE_FIELD))
    return StackRow(
        name=name,
        strength_model=model,
        strength_clip=model if clip is None else _strength(clip),
        on=bool(_first(row, ON_FIELDS, True)),
        blocks=blocks,
        schedule=schedule,
    )


def _first(row: Mapping[str, Any], names: Sequence[str], default: Any = None) -> Any:
    return next((row[name] for name in names if name in row), default)


def _strength(value: Any) -> float:
    try:
        strength = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"a strength should be a number, found {value!r:.40}") from None
    if not is_within_limit(strength):
        raise ValueError(f"a strength should lie {BETWEEN}, found {strength:g}")
    return strength
