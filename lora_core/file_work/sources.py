"""The files that work is done on: how strong each is, loaded for a model, with every key accounted for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadSetting, NotMergeable
from ..files.lora_file import LoraFile
from ..loading.loaded_lora import LoadedLora, load_lora
from ..loading.model_of_files import model_of
from ..names.key_report import KeyNote
from ..names.name_table import MISSING_PARTS, NameTable
from ..names.target_layer import UNET, ModelLayout
from .deltas.aligned_layers import GIVE_WEIGHTS, AlignedLayer, align, why_not_factored
from .writing.spelled_layers import whole_rows


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One file to merge, and how strong."""

    file: LoraFile
    strength: float = 1.0
    text_strength: float | None = None  # of its layers in text encoders; None for the same

    @property
    def strengths(self) -> tuple[float, float]:
        """(of the denoiser's layers, of the text encoders')."""
        return self.strength, self.strength if self.text_strength is None else self.text_strength

    def strength_in(self, part: str) -> float:
        """Of its layers in a part of the model."""
        return self.strengths[part != UNET]

    def said(self) -> dict[str, Any]:
        """For the metadata of what is made."""
        text = {} if self.text_strength is None else {"text_strength": self.text_strength}
        return {"file": self.file.name, "strength": self.strength, **text}


def check_strengths(sources: Sequence[Source]) -> None:
    """Raise BadSetting where a strength is no number, or none of them does anything."""
    if not all(abs(strength) < float("inf") for source in sources for strength in source.strengths):
        raise BadSetting("strengths should be finite numbers")
    if not any(strength for source in sources for strength in source.strengths):
        raise BadSetting("every strength is 0, so nothing would be left")


def factored_layers(
    sources: Sequence[Source], layout: ModelLayout | None, what: str, *, has_weights: bool
) -> list[AlignedLayer]:
    """Every layer that the files change, each with a factored delta of its own; for what looks at files only.

    Args:
        sources: the files.
        layout: the model they are for; None for the released model that fits best.
        what: can't be done to what, for the error.
        has_weights: whether the model's parameters can be read.

    Raises: as merge_files.
    """
    files = [source.file for source in sources]
    model = model_of(files, layout)
    layers = align(load_sources(sources, model, what), model.targets, whole_rows(model))
    reasons = why_not_factored(layers, [file.name for file in files], has_weights=has_weights)
    if reasons:
        raise NotMergeable(what, [*reasons, GIVE_WEIGHTS])
    return layers


def load_sources(
    sources: Sequence[Source], layout: ModelLayout, what: str, *, without_parts: bool = False
) -> list[LoadedLora]:
    """The files made ready for a model.

    Args:
        sources: the files.
        layout: the model.
        what: is being done to what, for the error.
        without_parts: whether keys for a part that the model came without may be left aside.

    Raises NotMergeable naming every key that does not fit.
    """
    table = NameTable(layout)
    loras = [load_lora(source.file, layout, table) for source in sources]
    reasons = [
        f"{source.file.name}: {note}"
        for source, lora in zip(sources, loras, strict=True)
        for note in [*lora.report.unmatched, *_of_missing_parts(lora, without_parts)]
    ]
    if reasons:
        raise NotMergeable(what, reasons)
    for lora in loras:
        lora.report.require_any()
    return loras


def _of_missing_parts(lora: LoadedLora, without_parts: bool) -> list[KeyNote]:
    return [] if without_parts else [note for note in lora.report.ignored if note.reason in MISSING_PARTS]
