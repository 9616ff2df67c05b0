"""Draws how alike LoRAs are: the cosine of every pair, of all layers and of each block."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ...lora_core.file_work.similarity import Likeness
from .canvas import EITHER_WAY, GREY, Canvas, Point

EDGE = 24  # pixels
FIELD = 72  # side of a field of the matrix
ROW, COLUMN = 22, 92  # of the table of blocks
NAMES = 250  # width of names
TOP = 112
LIGHT, DARK = "#ffffff", "#1f2430"
DEEP = 0.65  # cosines beyond that have a dark field


def draw_likeness(found: Likeness) -> Tensor:
    """The picture: [1, height, width, 3], float32, 0..1."""
    count = len(found.files)
    pairs, blocks = list(combinations(range(count), 2)), found.blocks()
    left = EDGE + NAMES + count * FIELD + 2 * EDGE
    width = left + NAMES + max(len(pairs), 1) * COLUMN + EDGE
    height = TOP + max(count * FIELD, len(blocks) * ROW if pairs else 0) + 2 * EDGE
    canvas = Canvas(max(width, 640), height)
    canvas.text((EDGE, 28), "Cosine of the angle between LoRAs", size=20)
    canvas.text((EDGE, 54), "blue: they say the same; white: they don't touch; red: they cancel out", colour=GREY)
    _matrix(canvas, found)
    if pairs:
        _table(canvas, found, pairs, blocks, left)
    return canvas.image()


def _matrix(canvas: Canvas, found: Likeness) -> None:
    numbers = range(len(found.files))
    for row in numbers:
        y = TOP + row * FIELD + FIELD / 2
        canvas.text((EDGE, y - 9), f"{row + 1}  {found.files[row]}", most=NAMES - 12)
        canvas.text(
            (EDGE, y + 9), f"strength {found.strengths[row]:g}, norm {found.norm(row):.3g}", colour=GREY, size=12
        )
        canvas.text((EDGE + NAMES + row * FIELD + FIELD / 2, TOP - 14), str(row + 1), anchor="mm", colour=GREY)
        for column in numbers:
            cosine = 1.0 if row == column else found.cosine(min(row, column), max(row, column))
            corner = (EDGE + NAMES + column * FIELD, TOP + row * FIELD)
            _field(canvas, corner, (FIELD - 2, FIELD - 2), cosine, 15)


def _table(
    canvas: Canvas, found: Likeness, pairs: Sequence[tuple[int, int]], blocks: Sequence[str], left: float
) -> None:
    canvas.text((left, TOP - 40), "Per block")
    for column, (first, second) in enumerate(pairs):
        x = left + NAMES + column * COLUMN + COLUMN / 2
        canvas.text((x, TOP - 14), f"{first + 1} and {second + 1}", anchor="mm", colour=GREY)
        for row, block in enumerate(blocks):
            corner = (left + NAMES + column * COLUMN, TOP + row * ROW)
            both = found.norm(first, block) and found.norm(second, block)
            _field(canvas, corner, (COLUMN - 2, ROW - 2), found.cosine(first, second, block) if both else None, 12)
    for row, block in enumerate(blocks):
        canvas.text((left, TOP + row * ROW + ROW / 2), block, most=NAMES - 12, size=13)


def _field(canvas: Canvas, corner: Point, size: Point, cosine: float | None, text: int) -> None:
    """A coloured field with its number; empty where one of the two does nothing."""
    middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
    if cosine is None:
        canvas.text(middle, "-", anchor="mm", colour=GREY, size=text)
        return
    canvas.heat(corner, size, torch.tensor([[(cosine + 1) / 2]]), EITHER_WAY)
    canvas.text(
        middle, f"{round(cosine, 2) + 0.0:+.2f}", anchor="mm", colour=LIGHT if abs(cosine) > DEEP else DARK, size=text
    )
