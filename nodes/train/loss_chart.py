"""Draws the curves of a training as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

WIDTH, HEIGHT = 768, 512  # pixels
MARGIN = 56  # pixels on the left and between the panels
PAPER, INK, GRID, THIN, THICK, GREEN = "#ffffff", "#222222", "#dddddd", "#b9cdea", "#2b6cb0", "#2f9e63"
TEXT_SIZE = 14  # pixels
SMOOTHING = 0.9

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class _Panel:
    """A part of the picture with axes of its own."""

    top: int
    bottom: int
    steps: int
    low: float
    high: float

    def place(self, point: tuple[int, float]) -> tuple[float, float]:
        step, value = point
        share = (value - self.low) / (self.high - self.low or 1.0)
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / max(1, self.steps)
        return x, self.bottom - (self.bottom - self.top) * share


def draw_training(losses: Points, validation: Points, steps: int) -> Tensor:
    """A picture [1, height, width, 3] in 0..1: validation above, the loss of each step below.

    Args:
        losses: (step, weighted loss of its batch).
        validation: (step, error as a share of the error at the start).
        steps: of the whole training.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    middle = HEIGHT // 2
    _panel(
        draw, "validation, share of the error at the start", validation, steps, (30, middle - 30), GREEN, percent=True
    )
    panel = _panel(draw, "loss of each step", losses, steps, (middle + 24, HEIGHT - 36), THIN, percent=False)
    if panel is not None:
        _line(draw, panel, _smoothed(losses), THICK, 2)
    draw.text((WIDTH - MARGIN, HEIGHT - 28), f"step {steps}", fill=INK, font_size=TEXT_SIZE, anchor="ra")
    draw.text((MARGIN, HEIGHT - 28), "0", fill=INK, font_size=TEXT_SIZE, anchor="ma")
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, HEIGHT, WIDTH, 3).float() / 255


def _panel(
    draw: ImageDraw.ImageDraw,
    title: str,
    points: Points,
    steps: int,
    rows: tuple[int, int],
    colour: str,
    *,
    percent: bool,
) -> _Panel | None:
    draw.text((MARGIN, rows[0] - 20), title, fill=INK, font_size=TEXT_SIZE)
    draw.rectangle((MARGIN, rows[0], WIDTH - MARGIN, rows[1]), outline=GRID)
    finite = [point for point in points if point[1] == point[1] and abs(point[1]) != float("inf")]
    if not finite:
        return None
    values = [value for _, value in finite]
    panel = _Panel(*rows, steps, min(values), max(values))
    for value in (panel.low, panel.high):
        label = f"{value:.1%}" if percent else f"{value:.3g}"
        draw.text((MARGIN - 6, panel.place((0, value))[1]), label, fill=INK, font_size=TEXT_SIZE - 2, anchor="rm")
    _line(draw, panel, finite, colour, 2 if percent else 1)
    return panel


def _line(draw: ImageDraw.ImageDraw, panel: _Panel, points: Points, colour: str, width: int) -> None:
    places = [panel.place(point) for point in points]
    if len(places) > 1:
        draw.line(places, fill=colour, width=width, joint="curve")
    else:
        x, y = places[0]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def _smoothed(points: Points) -> list[tuple[int, float]]:
    mean, smooth = points[0][1], list[tuple[int, float]]()
    for step, value in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smooth.append((step, mean))
    return smooth
