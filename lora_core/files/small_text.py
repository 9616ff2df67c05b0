"""Reads small text files that lie beside adapter files: regular ones only, and no more than a limit."""

import os
import stat
from pathlib import Path


def read_small_text(path: Path, at_most: int, *, with_folder_of: Path) -> str:
    """A UTF-8 text of at most so many bytes.

    Args:
        path: the file.
        at_most: bytes.
        with_folder_of: the adapter file. A link is followed only to where the adapter file itself lies.

    Raises OSError for what is no regular file, is too large or lies elsewhere, and ValueError for what is no UTF-8.
    """
    if path.is_symlink() and path.resolve().parent != with_folder_of.resolve().parent:
        raise OSError(0, "it is a link that leaves the folder")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe would keep whoever opens it waiting
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(0, f"it is larger than {at_most} bytes, and was not read")
    return content.decode("utf-8-sig")
