"""Draws the demo's pictures: one coloured shape on a plain background, anti-aliased, with its caption.

`python demo/pictures.py FOLDER` writes a small captioned set to train a LoRA on.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

COLOURS = {
    "red": (0.86, 0.14, 0.16),
    "orange": (1.00, 0.55, 0.08),
    "yellow": (0.98, 0.86, 0.16),
    "green": (0.14, 0.64, 0.28),
    "blue": (0.14, 0.33, 0.86),
    "purple": (0.64, 0.22, 0.76),
}
BACKGROUNDS = {
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.06),
    "grey": (0.50, 0.50, 0.50),
    "blue": COLOURS["blue"],
}
BASE_SHAPES = ("circle", "square", "triangle", "cross")
NEW_SHAPE = "star"
SHAPES = (*BASE_SHAPES, NEW_SHAPE)
SOLID, STRIPED = "solid", "striped"
STRIPE = 1 / 32  # of the picture's side: every other one, from the top, is inked

CENTRE = (0.42, 0.58)  # of the side, both ways
RADIUS = (0.25, 0.34)  # of the side


@dataclass(frozen=True, kw_only=True)
class Picture:
    shape: str
    colour: str
    background: str
    fill: str = SOLID
    x: float = 0.5  # of the side, from the left
    y: float = 0.5  # of the side, from the top
    radius: float = 0.3  # of the side

    @property
    def caption(self) -> str:
        return f"{self.colour} {self.shape} on {self.background}"


def all_pictures(shapes: Sequence[str] = BASE_SHAPES) -> list[Picture]:
    """One centred picture of every shape, colour and background; blue on blue is left out."""
    return [
        Picture(shape=shape, colour=colour, background=background)
        for shape in shapes
        for colour in COLOURS
        for background in BACKGROUNDS
        if colour != background
    ]


def random_pictures(count: int, rng: torch.Generator, shapes: Sequence[str] = BASE_SHAPES) -> list[Picture]:
    """`count` of all pictures, each moved and resized a little."""
    kinds = all_pictures(shapes)
    chosen = torch.randint(len(kinds), (count,), generator=rng).tolist()
    spread = torch.rand(count, 3, generator=rng).tolist()
    return [_moved(kinds[kind], place) for kind, place in zip(chosen, spread, strict=True)]


def varied_pictures(count: int, rng: torch.Generator, shapes: Sequence[str] = BASE_SHAPES) -> list[Picture]:
    """Like random_pictures, but so that nothing goes with one thing alone.

    Every shape, colour and background comes as often as every other, give or take one, and so does every pair of them.
    """
    while True:
        columns = [_evenly(values, count, rng) for values in (shapes, tuple(COLOURS), tuple(BACKGROUNDS))]
        kinds = [
            Picture(shape=shape, colour=colour, background=ground)
            for shape, colour, ground in zip(*columns, strict=True)
        ]
        pairs = [Counter(zip(*two, strict=True)) for two in combinations(columns, 2)]
        most = [-(-count // (len(set(one)) * len(set(other)))) for one, other in combinations(columns, 2)]
        if all(kind.colour != kind.background for kind in kinds) and all(
            max(found.values()) <= limit for found, limit in zip(pairs, most, strict=True)
        ):
            return [_moved(kind, torch.rand(3, generator=rng).tolist()) for kind in kinds]


def draw(pictures: Sequence[Picture], side: int) -> Tensor:
    """[n, 3, side, side] in 0..1"""
    coverage = torch.stack([_coverage(picture, side) for picture in pictures])[:, None]
    ink = torch.tensor([COLOURS[picture.colour] for picture in pictures])[:, :, None, None]
    paper = torch.tensor([BACKGROUNDS[picture.background] for picture in pictures])[:, :, None, None]
    return paper + (ink - paper) * coverage


def distance_to(shape: str, x: float, y: float, radius: float, side: int) -> Tensor:
    """[side, side]: signed distance of each pixel's centre to the shape's edge, in sides; below 0 inside."""
    line = (torch.arange(side) + 0.5) / side
    points = torch.stack(torch.meshgrid(line - y, line - x, indexing="ij")[::-1], dim=-1)  # [side, side, (x, y)]
    if shape == "circle":
        return points.norm(dim=-1) - radius
    return _distance_to_polygon(points, radius * torch.tensor(CORNERS[shape]))


def inked_rows(side: int) -> Tensor:
    """[side] of bool: the rows that a striped shape has ink in."""
    return ((torch.arange(side) + 0.5) / side / STRIPE).long() % 2 == 0


def to_image(pixels: Tensor) -> Image.Image:
    """[3, height, width] in 0..1 -> 8 bits per channel"""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().numpy())


def _moved(kind: Picture, place: Sequence[float]) -> Picture:
    x, y, radius = place
    return replace(kind, x=_between(CENTRE, x), y=_between(CENTRE, y), radius=_between(RADIUS, radius))


def _evenly(values: Sequence[str], count: int, rng: torch.Generator) -> list[str]:
    """All values in an order of their own, again and again."""
    found: list[str] = []
    while len(found) < count:
        found += [values[place] for place in torch.randperm(len(values), generator=rng).tolist()]
    return found[:count]


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def _coverage(picture: Picture, side: int) -> Tensor:
    """[side, side]: the share of each pixel that is inked."""
    distance = distance_to(picture.shape, picture.x, picture.y, picture.radius, side)
    covered = (0.5 - distance * side).clamp(0, 1)
    return covered * inked_rows(side)[:, None] if picture.fill == STRIPED else covered


def _distance_to_polygon(points: Tensor, corners: Tensor) -> Tensor:
    """[..., 2] and [corners, 2] -> [...]; even-odd rule for the sign."""
    start, end = corners, corners.roll(-1, 0)
    edge, offset = end - start, points[..., None, :] - start  # offset [..., corners, 2]
    along = ((offset * edge).sum(-1) / (edge * edge).sum(-1)).clamp(0, 1)
    distance = (offset - edge * along[..., None]).norm(dim=-1).amin(-1)
    crosses = (start[:, 1] > points[..., 1:]) != (end[:, 1] > points[..., 1:])
    rise = torch.where(edge[:, 1] == 0, 1.0, edge[:, 1])  # level edges are never crossed
    to_the_right = points[..., :1] < start[:, 0] + (points[..., 1:] - start[:, 1]) * edge[:, 0] / rise
    inside = (crosses & to_the_right).sum(-1) % 2 == 1
    return torch.where(inside, -distance, distance)


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    radii = [1.12 if corner % 2 == 0 else inner for corner in range(2 * points)]
    return [
        (radius * math.sin(math.pi * corner / points), -radius * math.cos(math.pi * corner / points) + 0.06)
        for corner, radius in enumerate(radii)
    ]


def _cross(arm: float) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [quarter]
    for _ in range(3):
        turned.append([(-y, x) for x, y in turned[-1]])
    return [corner for part in turned for corner in part]


CORNERS = {  # in radii, y downwards
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -1.05), (1.05, 0.82), (-1.05, 0.82)],
    "cross": _cross(0.37),
    "star": _star(5, 0.50),
}


def write_training_set(folder: Path, count: int, shape: str | None, fill: str, side: int) -> None:
    """NUMBER.png with NUMBER.txt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = BASE_SHAPES if shape is None else (shape,)
    pictures = [replace(p, fill=fill) for p in varied_pictures(count, torch.Generator().manual_seed(1), shapes)]
    for number, (picture, pixels) in enumerate(zip(pictures, draw(pictures, side), strict=True)):
        to_image(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(picture.caption + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10, help="pictures (default: 10)")
    parser.add_argument("--shape", choices=SHAPES, help="only this shape (default: all that the model knows)")
    parser.add_argument("--fill", choices=(SOLID, STRIPED), default=STRIPED)
    parser.add_argument("--side", type=int, default=128, help="pixels (default: 128)")
    arguments = parser.parse_args()
    write_training_set(arguments.folder, arguments.count, arguments.shape, arguments.fill, arguments.side)


if __name__ == "__main__":
    main()
