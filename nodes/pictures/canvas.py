"""A white sheet to draw charts on, twice as large as it is given away, so that lines and letters come out smooth."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FINER = 2  # times
TEXT_SIZE = 14  # pixels
INK, GREY, PALE = "#1f2430", "#8a90a0", "#e4e7ee"
SERIES = ("#2a6fdb", "#e4572e", "#2e9e5b", "#8e44ad", "#c99700", "#00838f", "#ad1457", "#5d6d7e")  # files, in order
RISING = ("#f7f8fb", "#cfe0f5", "#8ab6e8", "#3f83d1", "#1b4f9c", "#0b2545")  # from little to much
EITHER_WAY = ("#b2182b", "#ef8a62", "#fbe0d3", "#f7f7f7", "#d6e8f3", "#67a9cf", "#2166ac")  # from -1 to 1
NOTHING = "#ffffff"

Point = tuple[float, float]


class Canvas:
    """All positions are in pixels from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * FINER, height * FINER), "#ffffff")
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, at: Point, text: str, *, anchor: str = "lm", colour: str = INK, size: int = TEXT_SIZE, most: float = 0.0
    ) -> None:
        """One line; `anchor` as Pillow has it: l, m or r of the line, then t, m or b. Its middle is
        left out where it is longer than `most` pixels."""
        font = ImageFont.load_default(size * FINER)
        left = len(text)
        whole = text
        while most and left > 2 and self._draw.textlength(text, font=font) > most * FINER:
            left -= 1
            text = f"{whole[: left // 2]}…{whole[len(whole) - (left - left // 2) :]}"
        self._draw.text(_finer(at), text, font=font, fill=colour, anchor=anchor)

    def line(self, points: Sequence[Point], colour: str = GREY, width: float = 1.0) -> None:
        """Through all points."""
        if len(points) > 1:
            self._draw.line([_finer(point) for point in points], fill=colour, width=round(width * FINER), joint="curve")

    def area(self, points: Sequence[Point], colour: str, share: float) -> None:
        """Filled, with `share` of the colour over what is there, 0..1."""
        if len(points) < 3:
            return
        over = Image.new("L", self._image.size, 0)
        ImageDraw.Draw(over).polygon([_finer(point) for point in points], fill=round(255 * share))
        self._image.paste(Image.new("RGB", self._image.size, colour), mask=over)

    def box(self, corner: Point, size: Point, colour: str) -> None:
        """A filled rectangle."""
        (x, y), (width, height) = _finer(corner), _finer(size)
        self._draw.rectangle((x, y, x + max(width, 1) - 1, y + max(height, 1) - 1), fill=colour)

    def heat(self, corner: Point, size: Point, shares: Tensor, colours: Sequence[str]) -> None:
        """A field for each number of [rows, columns], 0..1 along the colours; NaN stays white."""
        rgb = colours_of(shares.double().numpy(), colours)
        fields = Image.fromarray(rgb).resize(_whole(_finer(size)), Image.Resampling.NEAREST)
        self._image.paste(fields, _whole(_finer(corner)))

    def frame(self, corner: Point, size: Point) -> None:
        """A thin rectangle."""
        (x, y), (width, height) = _finer(corner), _finer(size)
        self._draw.rectangle((x, y, x + width, y + height), outline=GREY, width=1)

    def image(self) -> Tensor:
        """[1, height, width, 3], float32, 0..1."""
        width, height = self._image.size
        small = self._image.resize((width // FINER, height // FINER), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small).astype(np.float32) / 255.0)[None]


def colours_of(shares: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """RGB, uint8, of numbers 0..1 along some colours; white for NaN."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], dtype=np.float64)
    at = np.clip(np.nan_to_num(shares), 0.0, 1.0) * (len(colours) - 1)
    rgb = np.stack([np.interp(at, np.arange(len(colours)), stops[:, channel]) for channel in range(3)], axis=-1)
    rgb[np.isnan(shares)] = 255.0
    return rgb.round().astype(np.uint8)


def _finer(point: Point) -> Point:
    return point[0] * FINER, point[1] * FINER


def _whole(point: Point) -> tuple[int, int]:
    return max(round(point[0]), 1), max(round(point[1]), 1)
