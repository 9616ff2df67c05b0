"""Decodes a picture file, of any kind that Pillow reads, to red, green and blue as a person sees them."""

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ...adapters.finite import is_finite
from ...errors import LoraError

MAX_PIXELS = 100_000_000  # width times height; decoding that many takes 2.5 GB for a moment
MAX_SIDE = 32_768  # pixels; a picture of 1 x 79,000,000 fits in a file of 467 bytes
MIN_SIDE = 32  # pixels; below it there is nothing to learn but blur
WHITE = 1.0  # what shows through where a picture is transparent
WHITE_LEVEL_16 = 65535.0  # the largest number of 16 bits

# What Pillow's many decoders raise on broken bytes; each was met with one format or another.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class PictureRefused(LoraError):
    """One picture can't be used; the message is the reason alone, without its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture."""

    pixels: Tensor  # [height, width, 3] float32, 0..1
    digest: str  # sha256 of what it was decoded from
    notes: tuple[str, ...] = ()  # what of the file is not used

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_picture(path: Path) -> Picture:
    """Decode a picture file, turned as its EXIF data says, over white where it is transparent.

    Raises PictureRefused: unreadable, damaged, no picture, more than MAX_PIXELS, or a side below MIN_SIDE.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PictureRefused(f"it can't be opened ({error.strerror or error})") from None
    if not content:
        raise PictureRefused("the file is empty")
    digest = hashlib.sha256(content).hexdigest()
    try:
        with _whole_files_only(), Image.open(BytesIO(content)) as image:
            check_size(image.height, image.width)
            frames = getattr(image, "n_frames", 1)
            pixels = _decoded(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise PictureRefused(f"it has more than {MAX_PIXELS // 10**6} million pixels; scale it down") from None
    except MemoryError:
        raise PictureRefused("there is not enough memory to decode it; scale it down") from None
    except DECODING_ERRORS as error:
        raise PictureRefused(f"it is damaged or no picture ({str(error)[:80] or type(error).__name__})") from None
    return Picture(pixels, digest, (f"only the first of its {frames} pictures is used",) if frames > 1 else ())


def picture_of_tensor(pixels: Tensor) -> Picture:
    """A picture that is decoded already, [height, width, 1, 3 or 4]; numbers outside of 0..1 are clipped and told.

    Raises PictureRefused: another shape, NaN or infinity in it, or a size as for files.
    """
    with torch.inference_mode(False):
        pixels = pixels.detach().to("cpu", torch.float32, copy=True)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise PictureRefused(f"its shape is {list(pixels.shape)}, not [height, width, 1, 3 or 4]")
    check_size(pixels.shape[0], pixels.shape[1])
    if not is_finite(pixels):
        raise PictureRefused("it holds NaN or infinity")
    digest = hashlib.sha256(f"{tuple(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes()).hexdigest()
    low, high = float(pixels.min()), float(pixels.max())
    notes = (f"its numbers, {low:.3g} to {high:.3g}, were clipped to 0..1",) if low < 0 or high > 1 else ()
    pixels = pixels.clamp(0, 1)
    if pixels.shape[-1] == 4:
        pixels = _over_white(pixels)
    return Picture(pixels.expand(-1, -1, 3).contiguous(), digest, notes)


def check_size(height: int, width: int) -> None:
    """Raises PictureRefused for a picture that is too large to decode or too small to learn from."""
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise PictureRefused(
            f"it is {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million can be decoded; scale it down"
        )
    if min(height, width) < MIN_SIDE:
        raise PictureRefused(f"it is {width} x {height} pixels; both sides need at least {MIN_SIDE}")


@contextmanager
def _whole_files_only() -> Generator[None]:
    """Let Pillow refuse files that are cut off, whatever another pack set, and leave the counting of pixels to us."""
    found = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = found


def _decoded(image: Image.Image) -> Tensor:
    """[height, width, 3] float32, 0..1"""
    if image.mode not in BY_MODE:
        raise PictureRefused(f"its kind of pixels, {image.mode}, is not known; save it as PNG or JPEG")
    if image.mode in WITHOUT_ALPHA and "transparency" in image.info:
        return _of_transparent(image)
    return BY_MODE[image.mode](image)


def _of_colours(image: Image.Image) -> Tensor:
    return _numbers(image.convert("RGB"), 255.0)


def _of_transparent(image: Image.Image) -> Tensor:
    return _over_white(_numbers(image.convert("RGBA"), 255.0))


def _of_16_bits(image: Image.Image) -> Tensor:
    levels = torch.tensor(np.array(image, dtype=np.float32))
    if float(levels.min()) < 0 or float(levels.max()) > WHITE_LEVEL_16:
        raise PictureRefused("its numbers do not fit into 16 bits, so it is unknown what white is; save it as PNG")
    return (levels / WHITE_LEVEL_16)[:, :, None].repeat(1, 1, 3)


def _of_floats(image: Image.Image) -> Tensor:
    levels = torch.tensor(np.array(image, dtype=np.float32))
    if not is_finite(levels) or float(levels.min()) < 0 or float(levels.max()) > 1:
        raise PictureRefused("its numbers leave 0..1, so it is unknown what white is; save it as PNG")
    return levels[:, :, None].repeat(1, 1, 3)


def _numbers(image: Image.Image, white: float) -> Tensor:
    """[height, width, channels] float32, 0..1"""
    return torch.tensor(np.array(image, dtype=np.uint8)).float().div_(white)


def _over_white(pixels: Tensor) -> Tensor:
    """[h, w, 4] -> [h, w, 3]: colour * alpha + white * (1 - alpha)"""
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return colour * alpha + WHITE * (1 - alpha)


WITHOUT_ALPHA = frozenset({"1", "L", "P", "RGB"})  # modes in which one colour can be declared transparent
BY_MODE: Mapping[str, Callable[[Image.Image], Tensor]] = {  # Pillow's modes
    **dict.fromkeys(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"), _of_colours),
    **dict.fromkeys(("LA", "La", "PA", "RGBA", "RGBa"), _of_transparent),
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), _of_16_bits),
    "F": _of_floats,
}
