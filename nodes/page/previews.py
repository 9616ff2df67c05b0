"""Makes small pictures out of those that lie beside LoRA files, and keeps the last ones."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image, ImageOps

from ...lora_core import FileDamaged, FileMissing
from ...lora_core.files.lora_file import FileIdentity, identify
from ..host_files.inside import check_inside, find_inside
from .lora_library import picture_beside

SIDE = 320  # pixels of the longer side
PICTURE_BYTES = 64_000_000  # bytes of a picture file that is opened
PIXELS = 80_000_000  # of a picture that is decoded
KEPT_BYTES = 32_000_000  # bytes of small pictures kept
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
QUALITY = 82  # of WebP, 0..100
CONTENT_TYPE = "image/webp"


class Previews:
    """The small pictures made last, as far as they fit in `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[FileIdentity, bytes] = OrderedDict()
        self._lock = threading.Lock()

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
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise FileDamaged(path.name, f"the picture has more than {PIXELS} pixels, and is not shown")
            picture.draft("RGB", (SIDE * 2, SIDE * 2))
            small = ImageOps.exif_transpose(picture.convert("RGBA" if picture.mode in ("RGBA", "P") else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileDamaged(path.name, f"the picture can't be read ({str(error)[:80]})") from None
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=QUALITY)
    return written.getvalue()
