"""How large a download will be, asked of the places that the files lie in."""

import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECONDS = 5.0  # for one answer
UNKNOWN = "several gigabytes"


def download_size(addresses: Sequence[str]) -> str:
    """Of all files together, such as "3.1 GB"; UNKNOWN where one of them does not tell."""
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_bytes_of, addresses))
    known = [size for size in sizes if size is not None]
    return f"{sum(known) / 1e9:.1f} GB" if known and len(known) == len(sizes) else UNKNOWN


def _bytes_of(address: str) -> int | None:
    try:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme == "file":
            return Path(urllib.request.url2pathname(parts.path)).stat().st_size
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None
