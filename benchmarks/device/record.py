"""The file of findings, a line of JSON each, written at once so that whatever ends a run leaves what was found."""

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .._measure import Row

SHOWN_FRAMES = 4  # of a traceback
LIMIT = "at most"  # the peer of a row that is a check: right if ratio, limit / found, is 1 or more


@dataclass(frozen=True)
class Found:
    """One line of the file."""

    part: str
    row: Row | None
    note: str = ""  # in words, where there is no row


@dataclass(frozen=True)
class Record:
    """Where a part writes."""

    file: Path
    part: str

    def row(self, row: Row) -> None:
        """A measurement, or a check."""
        self._write({"row": asdict(row)})

    def rows(self, rows: Sequence[Row]) -> None:
        """Several."""
        for row in rows:
            self.row(row)

    def check(self, case: str, found: float, limit: float, unit: str) -> None:
        """Right if what was found is at most the limit."""
        self.row(Row(case, found, limit, LIMIT, _room(found, limit), unit))

    def failure(self, case: str, error: BaseException) -> None:
        """What ended a case, and the last lines that it went through; the other cases still count."""
        frames = traceback.extract_tb(error.__traceback__)[-SHOWN_FRAMES:]
        way = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        self.note(f"{case}: {type(error).__name__}: {str(error)[:300]} ({way})")

    def note(self, text: str) -> None:
        """What a reader should know: what was skipped, what failed and why."""
        self._write({"note": " ".join(text.split())})

    def _write(self, entry: Mapping[str, object]) -> None:
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"part": self.part, **entry}) + "\n")


def _room(found: float, limit: float) -> float:
    if found <= limit:
        return max(1.0, limit / found) if found else float(max(limit, 1))
    return limit / found if found == found else 0.0  # NaN is never right


def read(file: Path) -> list[Found]:
    """What the file holds; a last line that was cut short is left out."""
    found: list[Found] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        row = Row(**entry["row"]) if "row" in entry else None
        found.append(Found(entry["part"], row, entry.get("note", "")))
    return found


def is_wrong(row: Row) -> bool:
    """A check whose limit was passed."""
    return row.peer_name == LIMIT and (row.ratio or 0.0) < 1.0
