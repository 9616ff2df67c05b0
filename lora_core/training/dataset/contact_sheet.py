"""Lays pictures of different sizes into one, in rows of equal cells."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 160  # pixels along each side of a cell
GAP = 4  # pixels between cells, and around them
GROUND = 0.13  # brightness of what no picture covers, 0..1
AT_MOST = 100  # pictures on a sheet


def thumbnail(pixels: Tensor) -> Tensor:
    """[h, w, 3] -> [CELL, CELL, 3]: the whole picture, as large as fits, in the middle of its cell."""
    height, width = pixels.shape[:2]
    factor = CELL / max(height, width)
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    planes = F.interpolate(pixels.movedim(-1, 0)[None], size=small, mode="bilinear", antialias=True)
    cell = torch.full((CELL, CELL, 3), GROUND)
    top, left = (CELL - small[0]) // 2, (CELL - small[1]) // 2
    cell[top : top + small[0], left : left + small[1]] = planes[0].movedim(0, -1).clamp(0, 1)
    return cell


def contact_sheet(thumbnails: Sequence[Tensor]) -> Tensor:
    """[rows * cell, columns * cell, 3] of one or more thumbnails, about as wide as high."""
    columns = math.ceil(math.sqrt(len(thumbnails)))
    rows = math.ceil(len(thumbnails) / columns)
    pitch = CELL + GAP
    sheet = torch.full((rows * pitch + GAP, columns * pitch + GAP, 3), GROUND)
    for number, cell in enumerate(thumbnails):
        top, left = GAP + number // columns * pitch, GAP + number % columns * pitch
        sheet[top : top + CELL, left : left + CELL] = cell
    return sheet
