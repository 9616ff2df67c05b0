"""Says an adapter file in another dialect: the same change of the same layers, tensor for tensor where it can be."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adapters import BadAdapter, is_complete
from ...adapters.magnitude import EITHER, PER_OUTPUT
from ...adapters.scale_rules import ADAPTER_METADATA, PLAIN_ALPHAS, ScaleRules, json_object
from ...errors import NoLayerReached, NotConvertible
from ...files.adapter_content import AdapterContent
from ...files.lora_file import LoraFile, Reader
from ...files.own_metadata import ALPHA_MARK, CONFIG_MARK, STALE
from ...loading.file_family import family_of_header, rules_of
from ...loading.model_of_files import model_of
from ...loading.refusals import refuse_foreign
from ...names.key_dialects.spelling import SPELLINGS, Spelling
from ...names.key_map import LayerKeys, bare_name, map_keys
from ...names.key_report import KeyNote
from ...names.name_table import NameTable, Place
from ...names.target_layer import ModelLayout, TargetLayer
from .peft_config import configs_as_metadata
from .row_pieces import Piece, split, swap_halves
from .spelled_layers import NO_ALPHA, Spelled, spell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Converted:
    """A file in another dialect, not yet written."""

    content: AdapterContent
    layers: int  # of the other dialect
    dropped: Sequence[KeyNote]  # keys of the source that carry no weight of the model
    notes: Sequence[str]


def convert(file: LoraFile, to: str, layout: ModelLayout | None = None) -> Converted:
    """Say a file in another dialect.

    Args:
        file: from open_lora.
        to: one of SPELLINGS.
        layout: the model it is for; None to take the released model of the file's family that most layers fit.

    Raises:
        ModelNeeded: no model was given, and the family is not known.
        NoLayerReached: no layer of the model fits.
        NotConvertible: some keys fit nothing in the model, or the dialect has no words for them; lists them all.
        NotAnAdapter, FileMissing, FileDamaged: see refusals and lora_file.
    """
    refuse_foreign(file)
    chosen = model_of([file], layout)
    key_map = map_keys(file.header.entries, NameTable(chosen))
    if key_map.unmatched:
        raise NotConvertible(file.name, [str(note) for note in key_map.unmatched])
    with file.tensors() as reader:
        conversion = _Conversion(file, SPELLINGS[to], chosen, reader)
        for layer in key_map.layers:
            conversion.take(layer)
        return conversion.finish(key_map.ignored)


class _Conversion:
    """Collects the pieces of every layer of the model, then writes them under the other dialect's names."""

    def __init__(self, file: LoraFile, spelling: Spelling, layout: ModelLayout, reader: Reader) -> None:
        self._file = file
        self._spelling = spelling
        self._layout = layout
        self._reader = reader
        self._rules, self._notes = rules_of(file)
        self._pieces: dict[str, list[Piece]] = {}  # path -> pieces in the model's row order
        self._refused: list[str] = []

    def take(self, layer: LayerKeys) -> None:
        """Read a layer's tensors and put them at their rows of the model's layers."""
        if not is_complete(layer.keys.keys()):
            self._refused.append(f"'{layer.layer}' (incomplete or not known)")
            return
        tensors = {role: self._reader.tensor(key.key) for role, key in layer.keys.items()}
        if any(tensor.numel() == 0 for tensor in tensors.values()):
            self._refused.append(f"'{layer.layer}' (rank 0 or an empty tensor)")
            return
        alpha = tensors.pop("alpha", None)
        if alpha is None:
            alpha = _configured_alpha(self._rules, layer, tensors, self._file.header.metadata)
        targets = [self._layout.targets[place.path] for place in layer.places]
        try:
            for place, piece in _at_places(layer.places, targets, Piece((0, 0), _flat_magnitude(tensors), alpha)):
                self._pieces.setdefault(place.path, []).append(swap_halves(piece) if place.swap_halves else piece)
        except BadAdapter as reason:
            self._refused.append(f"'{layer.layer}' ({reason})")

    def finish(self, ignored: Sequence[KeyNote]) -> Converted:
        """Write every layer; raises NotConvertible naming all that can't be."""
        spelled = spell(self._pieces, self._spelling, self._layout)
        if self._refused or spelled.refused:
            raise NotConvertible(self._file.name, [*self._refused, *spelled.refused])
        if not spelled.tensors:
            family = family_of_header(self._file.header)
            reasons = [str(note) for note in ignored]
            raise NoLayerReached(self._file.name, family.name, self._layout.family.name, reasons)
        metadata, notes = self._metadata(spelled)
        if self._spelling.name == "diffusers":
            metadata[ADAPTER_METADATA] = configs_as_metadata(spelled.configs)
        config = {**self._source_config(), **spelled.configs[""]} if self._spelling.name == "peft" else None
        content = AdapterContent(tensors=spelled.tensors, metadata=metadata, peft_config=config)
        return Converted(content=content, layers=spelled.layers, dropped=ignored, notes=notes)

    def _metadata(self, spelled: Spelled) -> tuple[dict[str, str], list[str]]:
        """The source's metadata without what the conversion makes wrong, and notes on what was left out."""
        metadata = dict(self._file.header.metadata)
        notes = list(self._notes)
        for name in (*STALE, ADAPTER_METADATA, *PLAIN_ALPHAS):
            if metadata.pop(name, None) is not None and name in STALE:
                notes.append(f"metadata '{name}' was dropped: it is a hash of the file as it was")
        metadata.setdefault("format", "pt")
        if not self._spelling.configured:
            metadata.pop(ALPHA_MARK, None)
        else:
            most = Counter(spelled.stored.values()).most_common(1)[0][0]
            others = {layer: stored for layer, stored in spelled.stored.items() if stored != most}
            metadata[ALPHA_MARK] = json.dumps({"most": most, "others": others})
        if self._spelling.name != "peft" and self._file.peft_config is not None:
            metadata[CONFIG_MARK] = json.dumps(self._file.peft_config, sort_keys=True)
        return metadata, notes

    def _source_config(self) -> Mapping[str, Any]:
        """What the source's own LoraConfig said, for the fields that a conversion does not set."""
        if self._file.peft_config is not None:
            return self._file.peft_config
        return json_object(self._file.header.metadata.get(CONFIG_MARK, "{}"))


def _configured_alpha(
    rules: ScaleRules, layer: LayerKeys, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Tensor | None:
    """The alpha that a configuration gives to a layer, in the dtype in which it was once stored."""
    marks = json_object(metadata.get(ALPHA_MARK, "{}"))
    mark = marks.get("others", {}).get(layer.layer, marks.get("most"))
    if "down" not in tensors or mark == NO_ALPHA:
        return None
    rank = tensors["down"].shape[0]
    scale, alpha = rules.scale(layer.layer, bare_name(layer.layer), rank, None)
    if mark is None and not rules.by_part:
        return None
    exact = torch.tensor(alpha if alpha / rank == scale else scale * rank, dtype=torch.float64)
    dtype = getattr(torch, str(mark), None)
    narrow = exact.to(dtype if isinstance(dtype, torch.dtype) else torch.float32)
    return narrow if narrow.double() == exact else exact.float()


def _flat_magnitude(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Magnitudes per output as [out], whatever the trainer's shape; those per input keep theirs."""
    own = next((role for role in (EITHER, PER_OUTPUT) if role in tensors), None)
    up = tensors.get("up")
    if own is None or up is None:
        return tensors
    others = {role: tensor for role, tensor in tensors.items() if role != own}
    magnitude = tensors[own]
    per_input = magnitude.dim() > 1 and magnitude.shape[0] == 1 and (own == EITHER or magnitude.dim() == 2)
    fits = magnitude.numel() == up.shape[0] and not per_input
    return {**others, EITHER: magnitude.reshape(-1) if fits else magnitude}


def _at_places(places: Sequence[Place], targets: Sequence[TargetLayer], whole: Piece) -> Iterable[tuple[Place, Piece]]:
    """The pieces of a layer of the file at each of its places, with the rows of the model's layers."""
    rows = [place.rows or target.all_rows for place, target in zip(places, targets, strict=True)]
    if len(places) == 1 and places[0].source_rows is None:
        yield places[0], Piece(rows[0], whole.tensors, whole.alpha)
        return
    source = [place.source_rows or (0, 0) for place in places]
    stop = max(end for _, end in source)
    by_source = dict(zip(source, zip(places, rows, strict=True), strict=True))
    for piece in split(Piece((0, stop), whole.tensors, whole.alpha), source):
        place, own_rows = by_source[piece.rows]
        yield place, Piece(own_rows, piece.tensors, piece.alpha)
