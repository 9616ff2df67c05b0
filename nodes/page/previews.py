"""Makes small pictures out of those that lie beside LoRA files, and keeps the last ones."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

import PIL
from PIL import Image, ImageOps

from ...lora_core import FileDamaged, FileMissing
from ...lora_core.files.lora_file import FileIdentity, identify
from ..host_files.inside import check_inside, find_inside
from .lora_library import picture_beside

SIDE = 320  # pixels of the longer side
PICTURE_BYTES = 32_000_000  # bytes of a picture file that is opened
PIXELS, SIDE_AT_MOST = 20_000_000, 16_384  # of a picture that is decoded
KEPT_BYTES = 32_000_000  # bytes of small pictures kept
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
QUALITY = 82  # of WebP, 0..100
CONTENT_TYPE = "image/webp"
LEAST_PILLOW = (10, 3)  # older ones have known holes in the decoders of these formats


class Previews:
    """The small pictures made last, as far as they fit in `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[FileIdentity, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # one picture in memory at a time

    def of(self, name: str) -> bytes:
        """The picture of a LoRA file as WebP. Raises FileMissing where none lies beside it, FileDamaged."""
        picture = picture_beside(find_inside(name))
        if picture is None:
            raise FileMissing(name, "no picture lies beside it")
        check_inside(picture)
        identity = identify(picture)
        with self._lock:
            made = self._kept.get(identity)
            if made is not None:
                self._kept.move_to_end(identity)
                return made
        with self._decoding:
            made = _small(identity)
        with self._lock:
            self._kept[identity] = made
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._limit:
                self._kept.popitem(last=False)
        return made

    def __len__(self) -> int:
        """Pictures kept."""
        return len(self._kept)


PREVIEWS = Previews(KEPT_BYTES)


def _small(identity: FileIdentity) -> bytes:
    path: Path = identity.path
    if identity.size > PICTURE_BYTES:
        raise FileDamaged(path.name, f"the picture has more than {PICTURE_BYTES} bytes, and is not shown")
    if tuple(int(part) for part in PIL.__version__.split(".")[:2]) < LEAST_PILLOW:
        needed = ".".join(map(str, LEAST_PILLOW))
        raise FileDamaged(
            path.name, f"pictures of others are shown with Pillow {needed} or newer, not {PIL.__version__}"
        )
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > PIXELS or max(picture.size) > SIDE_AT_MOST:
                limit = f"more than {PIXELS} pixels, or than {SIDE_AT_MOST} along a side"
                raise FileDamaged(path.name, f"the picture has {limit}, and is not shown")
            picture.draft("RGB", (SIDE * 2, SIDE * 2))
            mode = "RGBA" if picture.mode in ("RGBA", "P") else "RGB"
            small = picture if picture.mode == mode else picture.convert(mode)
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            small = ImageOps.exif_transpose(small)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileDamaged(path.name, f"the picture can't be read ({str(error)[:80]})") from None
    written = io.BytesIO()
    small.save(written, "WEBP", quality=QUALITY)
    return written.getvalue()
