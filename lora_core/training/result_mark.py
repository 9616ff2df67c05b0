"""The mark of a finished training in its file: by it the very same training is found, and need not be done again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import FileError
from ..files.lora_file import LoraFile
from ..files.stored_values import checksum

MARK = "lora_loom.trained"  # metadata: a JSON table
DIGITS = 6  # of the numbers of curves

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """How a training went: (step, loss), and (step, relative error) of the evaluations."""

    losses: Points
    validation: Points


def mark_of(key: str, tensors: Mapping[str, Tensor], curves: Curves) -> dict[str, str]:
    """The metadata of the file of a training that came to its end.

    Args:
        key: of the training, see Trainer.result_key.
        tensors: all of the file, so that a file which others changed, or made of this one, is not taken for it.
        curves: how it went; shown again when the file is found.
    """
    table = {
        "training": key,
        "tensors": checksum(tensors),
        "losses": _rounded(curves.losses),
        "validation": _rounded(curves.validation),
    }
    return {MARK: json.dumps(table)}


def curves_of(file: LoraFile, key: str) -> Curves | None:
    """How the training of a file went; None if the file is not the whole and unchanged result of this training."""
    try:
        table = json.loads(file.header.metadata.get(MARK, "{}"))
        if table.get("training") != key:
            return None
        with file.tensors() as reader:
            tensors = {name: reader.tensor(name) for name in file.header.entries}
        if table["tensors"] != checksum(tensors):
            return None
        return Curves(
            *([(int(step), float(value)) for step, value in table[name]] for name in ("losses", "validation"))
        )
    except (FileError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _rounded(points: Points) -> list[tuple[int, float]]:
    return [(step, float(f"{value:.{DIGITS}g}")) for step, value in points]
