"""Pictures that a training makes on its way, as one picture and as the thumbnail in a file's metadata."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

THUMBNAIL, THUMBNAIL_SIDE = "modelspec.thumbnail", 256  # pixels, at most


def side_by_side(pictures: Tensor) -> Image.Image:
    """Pictures [n, height, width, 3] in 0..1 in a row."""
    row = torch.cat(list(pictures), dim=1).clamp(0, 1)
    return Image.fromarray((row * 255).round().byte().numpy())


def thumbnail(picture: Tensor) -> dict[str, str]:
    """A picture [1, height, width, 3] as metadata, where file managers look for it."""
    small, held = side_by_side(picture), io.BytesIO()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(held, "JPEG", quality=85)
    return {THUMBNAIL: "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()}
