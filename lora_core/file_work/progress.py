"""How work on files tells how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # (layers done, layers in all, the layer now worked on)


def no_progress(done: int, total: int, name: str) -> None:
    """Tells nobody."""
