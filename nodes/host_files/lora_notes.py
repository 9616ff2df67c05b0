"""What is noted beside a LoRA file: its sidecar and its trigger words."""

from collections.abc import Sequence

from ...lora_core import LoraError, open_lora
from ...lora_core.files.metadata import read_about
from ...lora_core.files.sidecar import Sidecar, read_sidecar, sidecar_path
from ...lora_core.files.trigger_words import suggested_words
from .inside import check_inside, find_inside
from .lora_folders import find_lora


def sidecar_of(name: str) -> tuple[Sidecar, str]:
    """What is written beside a file, and why it can't be read ("" if it can)."""
    try:
        path = find_inside(name)
        check_inside(sidecar_path(path))
        return read_sidecar(path), ""
    except LoraError as error:
        return Sidecar(), str(error)


def trigger_words(names: Sequence[str]) -> list[str]:
    """The trigger words of several files, each word once; a file that is not there has none."""
    words: list[str] = []
    for name in dict.fromkeys(names):
        try:
            about = read_about(open_lora(find_lora(name)).header.metadata)
        except LoraError:  # told by the node that applies it
            continue
        words += suggested_words(sidecar_of(name)[0].trigger_words, about.trigger_phrase, about.trigger_words)
    return list(dict.fromkeys(words))
