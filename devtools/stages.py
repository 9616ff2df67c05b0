"""Progress on the console: one line when a stage begins, one when it ends, with its duration."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Says what begins and how long it took; a stage that raises says that it did not finish."""
    say(f"== {title}")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"   not finished after {_seconds(start)}")
        raise
    say(f"   done in {_seconds(start)}")


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.1f} s"
