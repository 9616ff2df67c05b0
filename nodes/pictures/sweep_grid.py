"""Draws the images of a sweep as one picture: a grid with the strengths above and beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...lora_core.weave.sweep import Sweep
from .canvas import GREY, Canvas

GAP = 4  # pixels between cells
LEGEND, HEADS, SIDE = 34, 28, 64  # pixels; height of the names, of the columns' labels, width of the rows' labels


def draw_sweep(images: Tensor, sweep: Sweep) -> Tensor:
    """The picture: [1, height, width, 3], float32, 0..1; the cells are the images [cells, h, w, 3] as they are."""
    rows, columns = sweep.shape
    high, wide = images.shape[1], images.shape[2]
    left, top = (SIDE if sweep.rows else GAP), LEGEND + HEADS
    width, height = left + columns * (wide + GAP), top + rows * (high + GAP)
    canvas = Canvas(width, height)
    names = [f"columns: {sweep.columns.name}"] + ([f"rows: {sweep.rows.name}"] if sweep.rows else [])
    canvas.text((GAP, LEGEND / 2), "   ".join(names), colour=GREY, most=width - 2 * GAP)
    for column, label in enumerate(sweep.columns.labels()):
        canvas.text((left + column * (wide + GAP) + wide / 2, LEGEND + HEADS / 2), label, anchor="mm", most=wide)
    for row, label in enumerate(sweep.rows.labels() if sweep.rows else ()):
        canvas.text((SIDE - 8, top + row * (high + GAP) + high / 2), label, anchor="rm", most=SIDE - 12)
    picture = canvas.image()
    _place(picture[0], images, columns, (left, top))
    return picture


def _place(picture: Tensor, images: Tensor, columns: int, corner: Sequence[int]) -> None:
    high, wide = images.shape[1], images.shape[2]
    for cell, image in enumerate(images):
        x = corner[0] + cell % columns * (wide + GAP)
        y = corner[1] + cell // columns * (high + GAP)
        picture[y : y + high, x : x + wide] = image[..., :3].to(device=picture.device, dtype=torch.float32)
