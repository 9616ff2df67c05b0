"""The findings of a day as a page in Markdown: what is wrong first, then a table for each part, and what is missing."""

from collections.abc import Mapping, Sequence

from .._measure import Row
from .parts import PARTS
from .record import LIMIT, Found, is_wrong

MOST_NOTES = 60


def page(machine: str, found: Sequence[Found], ended: Mapping[str, str]) -> str:
    """ended: part -> how it ended, in words; parts that did not run are not in it."""
    checks = [one for one in found if one.row is not None and one.row.peer_name == LIMIT]
    wrong = [one for one in checks if one.row is not None and is_wrong(one.row)]
    lines = [f"# {machine}", "", f"{len(checks)} checks, {len(wrong)} of them wrong.", ""]
    lines += [f"- wrong: {one.part}: {_words(one.row)}" for one in wrong if one.row is not None]
    for part in PARTS:
        own = [one for one in found if one.part == part.name]
        lines += ["", f"## {part.title}", "", ended.get(part.name, "Not reached."), ""]
        rows = [one.row for one in own if one.row is not None]
        measured = [row for row in rows if row.peer_name != LIMIT]
        passed = [row for row in rows if row.peer_name == LIMIT and not is_wrong(row)]
        if passed:
            lines += [f"{len(passed)} checks are right; the nearest to its limit: {_words(_nearest(passed))}.", ""]
        if measured:
            lines += ["| Case | LoRA Loom | Peer | | Ratio |", "|---|---:|---|---:|---:|", *map(_line, measured)]
        lines += [f"- {one.note}" for one in own if one.note][:MOST_NOTES]
    return "\n".join(lines) + "\n"


def _nearest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.ratio or 0.0)


def _words(row: Row) -> str:
    return f"{row.case}: {row.ours:.3g}, at most {row.peer or 0:.3g} {row.unit}"


def _line(row: Row) -> str:
    peer, ratio = (f"{value:.3g}" if value is not None else "-" for value in (row.peer, row.ratio))
    return f"| {row.case} | {row.ours:.4g} {row.unit} | {row.peer_name or '-'} | {peer} | {ratio} |"
