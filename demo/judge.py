"""Says what a picture shows, by fixed rules that know nothing of any model.

The background is the middle colour of the border. The shape's pixels are those far from it, its colour their middle
one, its silhouette they with the gaps between stripes filled; the shape is the one that, drawn into the same box,
overlaps most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from pictures import BACKGROUNDS, COLOURS, SHAPES, SOLID, STRIPE, STRIPED, Picture, distance_to, inked_rows
from torch import Tensor

SIDE = 64  # pixels; pictures are judged at this size
COLOUR_TOLERANCE = 0.22  # largest distance in RGB (the cube's side is 1) to the palette
LEAST_CONTRAST = 0.22  # distance in RGB from the background that makes a pixel part of the shape
LEAST_OVERLAP = 0.75  # intersection over union with the drawn shape
SMALLEST_AREA = 0.03  # of the picture
BORDER = 2  # pixels
RADIUS_AS_DRAWN = 0.25  # of the side
UNCLEAR = "unclear"


@dataclass(frozen=True)
class Verdict:
    colour: str
    shape: str
    background: str
    fill: str

    def agrees_with(self, asked: Picture) -> bool:
        return (self.colour, self.shape, self.background) == (asked.colour, asked.shape, asked.background)


def judge(pixels: Tensor) -> Verdict:
    """[3, height, width] in 0..1"""
    picture = F.interpolate(pixels[None], size=(SIDE, SIDE), mode="area")[0]
    paper = _border(picture).median(1).values
    background = _nearest(paper, BACKGROUNDS)
    if (_border(picture) - paper[:, None]).norm(dim=0).mean() > LEAST_CONTRAST / 2:
        background = UNCLEAR  # not plain
    contrast = (picture - paper[:, None, None]).norm(dim=0)
    # Half of the contrast of the ink itself: the edge then runs through the half covered pixels.
    inked = contrast > max(LEAST_CONTRAST, 0.5 * float(contrast.flatten().quantile(0.98)))
    silhouette = _without_gaps(inked)
    if silhouette.float().mean() < SMALLEST_AREA:
        return Verdict(UNCLEAR, UNCLEAR, background, UNCLEAR)
    ink = picture[:, contrast >= contrast[inked].quantile(0.5)].median(1).values
    shape, overlap, distance = _best_shape(silhouette)
    fill = _fill(inked, inside=distance < -STRIPE)
    return Verdict(_nearest(ink, COLOURS), shape if overlap > LEAST_OVERLAP else UNCLEAR, background, fill)


def _border(picture: Tensor) -> Tensor:
    """[3, height, width] -> [3, pixels]"""
    frame = torch.ones(picture.shape[1:], dtype=torch.bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    return picture[:, frame]


def _nearest(colour: Tensor, palette: Mapping[str, tuple[float, float, float]]) -> str:
    distances = {name: (colour - torch.tensor(rgb)).norm().item() for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < COLOUR_TOLERANCE else UNCLEAR


def _without_gaps(inked: Tensor) -> Tensor:
    """Rows between two inked ones, a stripe apart at most, are taken as inked."""
    reach = round(STRIPE * SIDE)
    window = {"kernel_size": (2 * reach + 1, 1), "stride": 1}
    grown = F.max_pool2d(F.pad(inked.float()[None], (0, 0, reach, reach)), **window)
    shrunk = -F.max_pool2d(F.pad(-grown, (0, 0, reach, reach)), **window)
    return shrunk[0] > 0.5


def _fill(inked: Tensor, inside: Tensor) -> str:
    rows = inked_rows(SIDE)[:, None]
    even, odd = (float(inked[inside & phase].float().mean()) for phase in (rows, ~rows))
    if min(even, odd) > 0.85:
        return SOLID
    return STRIPED if max(even, odd) > 0.75 and min(even, odd) < 0.25 else UNCLEAR


def _best_shape(silhouette: Tensor) -> tuple[str, float, Tensor]:
    """The name, its intersection over union, and its distance field [SIDE, SIDE]."""
    best = ("", -1.0, torch.zeros(()))
    for name in SHAPES:
        distance = _in_the_box_of(silhouette, name)
        drawn = distance < 0
        overlap = float((drawn & silhouette).sum() / (drawn | silhouette).sum())
        if overlap > best[1]:
            best = (name, overlap, distance)
    return best


def _in_the_box_of(silhouette: Tensor, shape: str) -> Tensor:
    """The shape's distance field, with the shape as wide and high on average as the silhouette, and where it is."""
    box, drawn = _box(silhouette), _box_as_drawn(shape)
    factor = (box.width + box.height) / (drawn.width + drawn.height)
    x = box.x - factor * (drawn.x - 0.5)
    y = box.y - factor * (drawn.y - 0.5)
    return distance_to(shape, x, y, factor * RADIUS_AS_DRAWN, SIDE)


@dataclass(frozen=True)
class Box:
    x: float  # of its centre; all four are shares of the picture's side
    y: float
    width: float
    height: float


@lru_cache(maxsize=len(SHAPES))
def _box_as_drawn(shape: str) -> Box:
    """The box of the shape drawn at the picture's centre."""
    return _box(distance_to(shape, 0.5, 0.5, RADIUS_AS_DRAWN, SIDE) < 0)


def _box(silhouette: Tensor) -> Box:
    left, right = _extent(silhouette.any(0))
    top, bottom = _extent(silhouette.any(1))
    return Box((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _extent(flags: Tensor) -> tuple[float, float]:
    """First and last edge of what is set, as shares of the side."""
    places = flags.nonzero()
    return float(places[0]) / len(flags), float(places[-1] + 1) / len(flags)
