"""The account of an adapter file's keys: each one is matched, ignored with a reason, or unmatched with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import FamilyMismatch, NoLayerReached, UnmatchedKeys
from .families import Family

LINES_AT_MOST = 20  # unmatched keys listed in the text form; the JSON form lists all


@dataclass(frozen=True, slots=True)
class KeyNote:
    """A key that was not applied, why, and the most similar name the model has."""

    key: str
    reason: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f"; nearest name: {self.nearest}" if self.nearest else ""
        return f"'{self.key[:120]}' ({self.reason}{hint})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyReport:
    """Where every key of one file went. `keys == matched + len(ignored) + len(unmatched)` always."""

    file: str
    dialect: str
    file_family: Family
    model_family: Family
    keys: int
    matched: Sequence[str]
    ignored: Sequence[KeyNote]
    unmatched: Sequence[KeyNote]
    algorithms: Mapping[str, int]  # algorithm -> layers of the model that it reaches
    ranks: tuple[int, int] | None  # (smallest, largest) of the matched layers
    alphas: tuple[float, float] | None  # (smallest, largest) of the matched layers
    notes: Sequence[str] = ()  # what a person should know although it is no error
    is_refused: bool = False  # of another family, by its names and since most of it does not fit

    def __post_init__(self) -> None:
        counted = len(self.matched) + len(self.ignored) + len(self.unmatched)
        if counted != self.keys:
            raise ValueError(f"the report of {self.file} accounts for {counted} of {self.keys} keys")

    @property
    def layers(self) -> int:
        """Layers of the model that the file reaches."""
        return sum(self.algorithms.values())

    @property
    def refused(self) -> FamilyMismatch | None:
        """Why the file can't be applied to this model at all; None if it can."""
        return FamilyMismatch(self.file, self.file_family.name, self.model_family.name) if self.is_refused else None

    def require_family(self) -> "KeyReport":
        """Itself, or FamilyMismatch."""
        if (refused := self.refused) is not None:
            raise refused
        return self

    def require_any(self) -> "KeyReport":
        """Itself, or NoLayerReached when no layer is reached."""
        if not self.layers:
            reasons = [str(note) for note in (*self.unmatched, *self.ignored)]
            raise NoLayerReached(self.file, self.file_family.name, self.model_family.name, reasons)
        return self

    def require_complete(self) -> "KeyReport":
        """Itself, or UnmatchedKeys naming every key that fits nothing."""
        if self.unmatched:
            raise UnmatchedKeys(self.file, [str(note) for note in self.unmatched], self.keys)
        return self

    def with_notes(self, notes: Sequence[str]) -> "KeyReport":
        """The same account with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    @property
    def state(self) -> str:
        """In a few words: how much of the file arrived."""
        if self.is_refused:
            return f"refused: made for {self.file_family.name}, this is {self.model_family.name}"
        if not self.layers:
            return "reaches no layer"
        if self.unmatched:
            return "reached in part"
        return "all keys for the connected parts matched" if self.ignored else "all keys matched"

    def headline(self) -> str:
        """One line: what was reached and what was not."""
        counts = f"{len(self.matched)} matched, {len(self.ignored)} ignored, {len(self.unmatched)} unmatched"
        return f"{self.file}: {self.state}; {self.layers} layers, {counts} of {self.keys} keys"

    def text(self, about: Sequence[str] = ()) -> str:
        """The account in lines for a person.

        Args:
            about: lines on what the file says of itself, shown before the keys.
        """
        lines = [self.headline(), f"Names: {self.dialect}. Made for: {self.file_family.name}."]
        lines += [f"{name}: {layers} layers" for name, layers in self.algorithms.items()]
        if self.ranks and self.alphas:
            lines.append(f"Rank {_span(self.ranks)}, alpha {_span(self.alphas)}.")
        lines += about
        lines += [f"Note: {note}" for note in self.notes]
        lines += _grouped("Ignored", self.ignored)
        lines += _listed("Unmatched", self.unmatched)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The account as plain data, in the form that `python -m lora_core inspect --json` prints."""
        return {
            "file": self.file,
            "dialect": self.dialect,
            "family": self.file_family.name,
            "model_family": self.model_family.name,
            "algorithms": dict(self.algorithms),
            "rank": {"min": self.ranks[0], "max": self.ranks[1]} if self.ranks else None,
            "alpha": {"min": self.alphas[0], "max": self.alphas[1]} if self.alphas else None,
            "keys": self.keys,
            "matched": len(self.matched),
            "ignored": [{"key": note.key, "reason": note.reason} for note in self.ignored],
            "unmatched": [{"key": n.key, "reason": n.reason, "nearest": n.nearest} for n in self.unmatched],
            "targets": self.layers,
            "notes": list(self.notes),
            "refused": str(self.refused) if self.is_refused else None,
        }


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"


def _grouped(title: str, notes: Sequence[KeyNote]) -> list[str]:
    counts: dict[str, int] = {}
    for note in notes:
        counts[note.reason] = counts.get(note.reason, 0) + 1
    return [f"{title}: {count} keys ({reason})" for reason, count in counts.items()]


def _listed(title: str, notes: Sequence[KeyNote]) -> list[str]:
    if not notes:
        return []
    more = len(notes) - LINES_AT_MOST
    lines = [f"{title}:", *(f"  {note}" for note in notes[:LINES_AT_MOST])]
    return [*lines, f"  and {more} more"] if more > 0 else lines
