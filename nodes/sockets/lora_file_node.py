"""What every node that reads one LoRA file does before it runs: refuse a bad file, and run again when it changed."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraError, open_lora
from ...lora_core.errors import HeaderTooLong
from ..host_files.lora_folders import find_lora, identify_lora

CHECKED_AT_MOST = 1_000_000  # bytes of a header


def check_file(name: str | None) -> bool | str:
    """True, or in one line why a file can't be used. A linked name (None) is checked when the node runs.

    So is a file with a very long header: the host checks graphs while everybody else waits.
    """
    if name is None:
        return True
    try:
        open_lora(find_lora(name), header_at_most=CHECKED_AT_MOST)
    except HeaderTooLong:
        return True
    except LoraError as error:
        return str(error)
    return True


NOT_CONNECTED = object()


class LoraFileNode(io.ComfyNode):
    """A node with the input `lora_name`, see socket_types.lora_file_input, and perhaps `lora` in its place."""

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None, lora: Any = NOT_CONNECTED) -> bool | str:
        """Refuse a missing or unreadable file before the run starts; the host gives None for what is connected."""
        return True if lora is not NOT_CONNECTED else check_file(lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, lora: Any = NOT_CONNECTED, **_: Any) -> Any:
        """Run again when the file changed."""
        if lora is not NOT_CONNECTED or lora_name is None:
            return None
        return str(identify_lora(lora_name))
