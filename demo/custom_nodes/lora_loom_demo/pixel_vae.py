"""Turns the demo's latents into pictures and back. Nothing in it is learned.

A latent [12, h, w] is a small picture of 2h x 2w pixels with each 2x2 block laid into channels. A decoded picture is
that small picture enlarged 4 times, smoothly, so that h x w stands for 8h x 8w pixels as the host expects. Averaging
blocks of 4x4 pixels gives the small picture back exactly, as long as no value had to be clipped.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2  # pixels of the small picture per latent, along each side
ENLARGEMENT = 4
LATENT_CHANNELS = 3 * BLOCK * BLOCK
# [12][3]: what a channel adds to red, green and blue in a preview (that maps -1..1 to 0..255)
RGB_OF_LATENT = [
    [1 / BLOCK**2 if channel // BLOCK**2 == colour else 0.0 for colour in range(3)]
    for channel in range(LATENT_CHANNELS)
]


class PixelVAE:
    """Offers what the host's VAE nodes call."""

    latent_channels = LATENT_CHANNELS
    latent_dim = 2
    downscale_ratio = BLOCK * ENLARGEMENT
    upscale_ratio = BLOCK * ENLARGEMENT
    output_channels = 3

    def decode(self, samples: Tensor, **_options: object) -> Tensor:
        """[n, 12, h, w] in -1..1 -> [n, 8h, 8w, 3] in 0..1"""
        small = F.pixel_shuffle(samples.float(), BLOCK)
        rows = _enlarging(small.shape[-2]).to(small.device)
        columns = _enlarging(small.shape[-1]).to(small.device)
        picture = rows @ small @ columns.T
        return (picture.movedim(1, -1) * 0.5 + 0.5).clamp(0.0, 1.0)

    def encode(self, pixels: Tensor) -> Tensor:
        """[n, 8h, 8w, 3] in 0..1 -> [n, 12, h, w] in -1..1; a rest that fills no block is cropped evenly."""
        picture = _cropped(pixels[..., :3].float()).movedim(-1, 1)
        return F.pixel_unshuffle(F.avg_pool2d(picture, ENLARGEMENT) * 2.0 - 1.0, BLOCK)

    def decode_tiled(self, samples: Tensor, **_options: object) -> Tensor:
        return self.decode(samples)

    def encode_tiled(self, pixel_samples: Tensor, **_options: object) -> Tensor:
        return self.encode(pixel_samples)

    def spacial_compression_decode(self) -> int:
        return self.upscale_ratio

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    def temporal_compression_decode(self) -> None:
        return None

    def throw_exception_if_invalid(self) -> None:
        return None


def _cropped(pixels: Tensor) -> Tensor:
    unit = BLOCK * ENLARGEMENT
    for dim in (-3, -2):
        kept = pixels.shape[dim] // unit * unit
        pixels = pixels.narrow(dim, (pixels.shape[dim] - kept) // 2, kept)
    return pixels


@lru_cache(maxsize=32)
def _enlarging(length: int) -> Tensor:
    """[4 * length, length]: bicubic enlargement, corrected so that each value is the mean of the four made of it."""
    with torch.inference_mode(False):  # kept for later calls, which may be outside of inference mode
        unit = torch.eye(length)[None, None]
        bicubic = F.interpolate(unit, size=(ENLARGEMENT * length, length), mode="bicubic", align_corners=False)[0, 0]
        means = bicubic.reshape(length, ENLARGEMENT, length).mean(1)
        return bicubic @ torch.linalg.inv(means)
