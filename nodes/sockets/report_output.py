"""How reports leave a node: as text, and as what the page shows."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ...lora_core import KeyReport
from ...lora_core.file_work.block_sums import count_blocks

SHOWN_KEYS = 200  # unmatched keys of one file sent to the page; the Inspect node gives all


def report_output(reports: Sequence[KeyReport], model: Any, clip: Any) -> io.NodeOutput:
    """The outputs of an applying node: shown in the node, kept in the history, and given on as text."""
    text = report_text(reports)
    return io.NodeOutput(model, clip, text, ui={"text": [text], "lora_loom_reports": [shown(r) for r in reports]})


def report_text(reports: Sequence[KeyReport]) -> str:
    """The reports of all files in words."""
    return "\n\n".join(report.text() for report in reports) or "The stack is empty: nothing was applied."


def shown(report: KeyReport) -> dict[str, Any]:
    """A report for the page: counts in full, keys up to a limit that is told."""
    account = report.as_json()
    for field in ("ignored", "unmatched"):
        notes = account[field]
        account[f"{field}_count"] = len(notes)
        account[field] = notes[:SHOWN_KEYS]
    account["headline"] = report.headline()
    account["blocks"] = [asdict(count) for count in count_blocks(report)]
    return account
