"""Where a name in an adapter file points: a layer of the model, some rows of it, or its rows in another order."""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name that some trainer uses, and the model's own path that it stands for."""

    name: str
    inner: str  # path inside the part
    rows: tuple[int, int] | None = None  # [start, stop) of the weight's output rows; None for all of them
    swap_halves: bool = False  # the trainer has the second half of the rows first
    source_rows: tuple[int, int] | None = None  # [start, stop) of the trainer's rows, where it fuses several layers
    alias: bool = False  # a name that diffusers itself does not use
