"""Prints for a person, whatever the names in a hostile file hold."""

import re
import sys

from ..errors import LoraError

LINE = 79  # characters of a line of progress
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def show(text: str, *, error: bool = False) -> None:
    """Print what may come from a hostile file: control characters, which a terminal obeys, are spelled out."""
    stream = sys.stderr if error else sys.stdout
    plain = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = stream.encoding or "utf-8"
    print(plain.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def show_progress(done: int, total: int, name: str) -> None:
    """Tell how far the work is, on a terminal, in one line that is written over."""
    if sys.stderr.isatty():
        line = f"{done}/{total} {name}"[:LINE]
        print(f"\r{UNPRINTABLE.sub('?', line):{LINE}}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def show_error(error: LoraError) -> None:
    """Print an error as one line on stderr."""
    show(" ".join(str(error).split()), error=True)
