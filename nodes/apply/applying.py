"""What the applying nodes share: applying one row of a stack, and showing the reports."""

import math
from typing import Any

from ...lora_core import KeyReport, LoraFile, StackError
from ...lora_core.weave import AUTO
from ...lora_core.weave.block_strengths import BlockStrengths, by_strength
from ..comfy_bridge import FIXED, ModelNames, Moves, apply_to_clip, apply_to_model
from ..host_files.loading import CACHE
from ..sockets.socket_types import ERROR


def apply_row(
    names: ModelNames,
    model: Any,
    clip: Any,
    lora: str | LoraFile,
    strengths: tuple[float, float],
    on_unmatched: str,
    mode: str = AUTO,
    moves: Moves = FIXED,
    blocks: BlockStrengths | None = None,
) -> tuple[Any, Any, KeyReport]:
    """Apply one file at (model strength, CLIP strength): the changed model, the changed CLIP, the account.

    The strength on the model follows `moves`; the text encoders run before the first step, and keep theirs. Both are
    multiplied by the factors of `blocks`.

    The file is given by its name or opened; an adapter in memory is an opened one. Raises LoraError when it can't
    be used, or, with on_unmatched "error", when keys fit nothing. The model and the CLIP given are never changed.
    """
    if not all(map(math.isfinite, strengths)):
        name = lora if isinstance(lora, str) else lora.name
        raise StackError([f"'{name}': a strength is not a number: {strengths[0]}, {strengths[1]}"])
    loaded = CACHE.get(lora, names) if isinstance(lora, str) else CACHE.get_opened(lora, names)
    report = loaded.report.require_any()
    if on_unmatched == ERROR:
        report.require_complete()
    parts = [(loaded, 1.0)] if blocks is None else by_strength(loaded, blocks, names.table)
    notes: list[str] = []
    for part, factor in parts:
        applied = apply_to_model(model, part, strengths[0] * factor, mode, moves)
        model = applied.patcher
        notes += [f"blocks at {factor:g}: {note}" if blocks else note for note in applied.notes]
        if clip is not None:
            clip = apply_to_clip(clip, part, strengths[1] * factor, mode)
    if blocks is not None:
        notes.append(f"block strengths: {blocks.text() or 'none'}")
    return model, clip, report.with_notes([*notes, *_moves_notes(moves, has_clip=clip is not None)])


def _moves_notes(moves: Moves, *, has_clip: bool) -> list[str]:
    if moves.schedule is None:
        return []
    text = "; the text encoders run before the first step and keep their strength" if has_clip else ""
    return [f"strength over the steps (position:factor): {moves.schedule.text()}{text}"]
