"""Tells the host how far a work is, and stops it where a person asks for that."""

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar


class HostProgress:
    """The progress of one node: a bar that fills layer by layer. A lora_core Progress."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None

    def __call__(self, done: int, total: int, name: str) -> None:
        """Called before each layer and after the last; raises the host's own interruption."""
        throw_exception_if_processing_interrupted()
        if self._bar is None:
            self._bar = ProgressBar(max(total, 1))
        self._bar.update_absolute(done, max(total, 1))
