"""Makes an adapter ready for a file: in a dialect and dtype that were chosen, with what it is to say of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import NotMergeable
from ...files.adapter_content import AdapterContent
from ...files.lora_file import LoraFile
from ...files.own_metadata import STALE
from ...names.target_layer import ModelLayout
from ..deltas.factored import norm_of
from .conversion import convert

TRIGGER_PHRASE = "modelspec.trigger_phrase"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadyToSave:
    """An adapter file that is not yet written."""

    content: AdapterContent
    rounding: float  # of the change of dtype: the largest |stored - given| / |given| of a tensor, Frobenius norms
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """What became of the adapter, for a person."""
        rounded = f" Rounding: {self.rounding:.1e} of a matrix at most." if self.rounding else ""
        return [f"{self.content.line()}{rounded}", *self.notes]


def ready_to_save(
    file: LoraFile,
    *,
    dialect: str | None = None,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    layout: ModelLayout | None = None,
) -> ReadyToSave:
    """An adapter as it is to be written.

    Args:
        file: on disk or in memory.
        dialect: to write, one of SPELLINGS; None for the file's own names.
        dtype: to write; None for the file's own. Alphas keep theirs.
        metadata: added to the file's own, in the place of entries of the same name.
        layout: the model it is for, where its family is not known by name.

    Raises:
        NotConvertible, ModelNeeded, NoLayerReached: see conversion.convert.
        NotMergeable: numbers that the dtype can't hold; lists all tensors.
    """
    notes: list[str] = []
    if dialect is None:
        with file.tensors() as reader:
            tensors = {key: reader.tensor(key) for key in file.header.entries}
        said, config = dict(file.header.metadata), file.peft_config
    else:
        converted = convert(file, dialect, layout)
        content = converted.content
        tensors, said, config = dict(content.tensors), dict(content.metadata), content.peft_config
        notes += [f"Note: {note}." for note in converted.notes]
        notes += [f"Left out: {note}" for note in converted.dropped]
    rounding = 0.0
    if dtype is not None:
        tensors, rounding = _rounded(file.name, tensors, dtype)
    if dtype is not None or metadata:
        said = {name: value for name, value in said.items() if name not in STALE}
    said = {"format": "pt", **said, **(metadata or {})}
    content = AdapterContent(tensors=tensors, metadata=said, peft_config=config)
    return ReadyToSave(content=content, rounding=rounding, notes=tuple(notes))


def _rounded(name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[dict[str, Tensor], float]:
    """The tensors in a dtype, and the largest relative error of one."""
    rounded: dict[str, Tensor] = {}
    beyond: list[str] = []
    worst = 0.0
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 1:  # an alpha
            rounded[key] = tensor
            continue
        rounded[key] = tensor.to(dtype)
        if bool(tensor.isfinite().all()) and not bool(rounded[key].isfinite().all()):
            beyond.append(f"'{key}'")
        norm = norm_of(tensor)
        if norm:
            worst = max(worst, norm_of(rounded[key].double() - tensor.double()) / norm)
    if beyond:
        raise NotMergeable(f"{name} can't be stored as {dtype}, which does not hold its numbers", beyond)
    return rounded, worst
