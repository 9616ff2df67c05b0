"""Draws picture files for the tests of training sets."""

from pathlib import Path

import numpy as np
from PIL import Image


def gradient(height: int, width: int) -> Image.Image:
    """Red grows to the right, green downwards, blue is a quarter."""
    across = np.broadcast_to(np.linspace(0, 255, width)[None, :], (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    levels = np.stack([across, down, np.full((height, width), 64)], axis=-1)
    return Image.fromarray(levels.round().astype(np.uint8))


def save_pictures(folder: Path, *names: str, size: tuple[int, int] = (64, 64)) -> None:
    """A picture of height and width `size` under each name, each a little different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = gradient(*size)
        image.putpixel((0, 0), (number, 0, 0))
        image.save(folder / name)
