"""Chooses the size that a picture is trained at, and cuts the picture to it."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...errors import BadSetting

WIDEST = 4  # a bucket's longer side over its shorter one, at most


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A size that pictures are trained at, in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        """As people write sizes: width first."""
        return f"{self.width} x {self.height}"


@dataclass(frozen=True, slots=True, eq=False)
class FittedPicture:
    """A picture resized and cut to its bucket."""

    pixels: Tensor  # [bucket height, bucket width, 3] float32, 0..1
    crop: tuple[int, int]  # top and left edge of what was cut out of the resized picture, in pixels
    enlargement: float  # factor of the resizing; above 1 the picture has fewer pixels than it is trained at
    kept: float  # share of the picture's area that was not cut away, 0..1


def buckets(resolution: int, step: int) -> list[Bucket]:
    """All sizes of about `resolution` squared pixels.

    Args:
        resolution: side of the square that has as many pixels, in pixels.
        step: both sides are multiples of it, in pixels.

    Returns:
        Every width that is a multiple of `step`, with the greatest height that keeps height * width <= resolution^2,
        and the same turned by 90 degrees; none is longer than WIDEST times its shorter side. The largest square is one
        of them.

    Raises BadSetting for a resolution below the step, or a step below 1.
    """
    if step < 1 or resolution < step:
        raise BadSetting(
            f"a resolution of {resolution} pixels holds no multiple of the step of {step} pixels; "
            f"use a resolution of at least the step"
        )
    square = resolution // step * step
    found = {Bucket(square, square)}
    for short in range(step, resolution + 1, step):
        long = resolution**2 // short // step * step
        if long <= WIDEST * short:
            found |= {Bucket(short, long), Bucket(long, short)}
    return sorted(found)


def bucket_for(size: tuple[int, int], resolution: int, step: int) -> Bucket:
    """The bucket whose aspect ratio is nearest to a picture's; of equally near ones the largest.

    Args:
        size: height and width of the picture, in pixels.
        resolution: see `buckets`.
        step: see `buckets`.
    """
    ratio = math.log(size[0] / size[1])

    def badness(bucket: Bucket) -> tuple[float, int]:
        return round(abs(math.log(bucket.height / bucket.width) - ratio), 9), -bucket.height * bucket.width

    return min(buckets(resolution, step), key=badness)


def fit(pixels: Tensor, bucket: Bucket) -> FittedPicture:
    """Resize a picture until it just covers its bucket, and cut away evenly what stands over.

    factor = max(bucket height / height, bucket width / width); bicubic, with antialiasing.

    Args:
        pixels: [height, width, 3] float32, 0..1.
        bucket: the size wanted.
    """
    height, width = pixels.shape[:2]
    factor = max(bucket.height / height, bucket.width / width)
    resized_height = max(bucket.height, round(height * factor))
    resized_width = max(bucket.width, round(width * factor))
    if (resized_height, resized_width) != (height, width):
        planes = pixels.movedim(-1, 0)[None]
        planes = F.interpolate(
            planes, size=(resized_height, resized_width), mode="bicubic", antialias=True, align_corners=False
        )
        pixels = planes[0].movedim(0, -1).clamp(0, 1)  # bicubic curves swing over at hard edges
    top, left = (resized_height - bucket.height) // 2, (resized_width - bucket.width) // 2
    cut = pixels[top : top + bucket.height, left : left + bucket.width].contiguous()
    kept = bucket.height * bucket.width / (resized_height * resized_width)
    return FittedPicture(cut, (top, left), factor, kept)
