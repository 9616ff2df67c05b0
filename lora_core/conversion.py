"""Says an adapter file in another dialect: the same change of the same layers, tensor for tensor where it can be."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters import BadAdapter, is_complete
from .adapters.magnitude import EITHER, PER_OUTPUT
from .errors import NoLayerReached, NotConvertible
from .key_dialects.dialect import DOTS
from .key_dialects.spelling import DIFFUSERS, SPELLINGS, Spelling
from .key_map import LayerKeys, bare_name, map_keys
from .key_report import KeyNote
from .known_models import known_layouts, with_known_encoders
from .loaded_lora import family_of_header
from .lora_file import PEFT_CONFIG_NAME, LoraFile, TensorReader
from .name_table import NameTable, Place
from .path_names import Name, diffusers_names
from .refusals import refuse_foreign
from .row_pieces import Piece, Rows, join, split, swap_halves
from .safetensors_writer import write_safetensors, write_whole
from .scale_rules import ADAPTER_METADATA, PLAIN_ALPHAS, ScaleRules, json_object, scale_rules
from .target_layer import ModelLayout, TargetLayer

CONFIG_MARK = "lora_loom.adapter_config"  # the adapter_config.json that a file had beside it
# How alpha was stored before it went into a configuration: {"most": dtype, "others": {layer: dtype}}, or NO_ALPHA.
ALPHA_MARK = "lora_loom.alpha"
NO_ALPHA = "none"
STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")  # hashes of the tensors as they were
FOUR_SIDES = 4  # of a convolution's weight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Converted:
    """A file in another dialect, not yet written."""

    tensors: Mapping[str, Tensor]
    layers: int  # of the other dialect
    metadata: Mapping[str, str]
    peft_config: Mapping[str, Any] | None  # what adapter_config.json beside the file has to say
    dropped: Sequence[KeyNote]  # keys of the source that carry no weight of the model
    notes: Sequence[str]

    def write(self, path: Path) -> None:
        """Write the file, and its configuration beside it if the dialect has one. Raises FileNotWritten."""
        if self.peft_config is not None:
            text = json.dumps(self.peft_config, indent=2, sort_keys=True)
            write_whole(path.parent / PEFT_CONFIG_NAME, lambda beside: beside.write_text(text, encoding="utf-8"))
        write_safetensors(path, self.tensors, self.metadata)


def convert(file: LoraFile, to: str, layout: ModelLayout | None = None) -> Converted:
    """Say a file in another dialect.

    Args:
        file: from open_lora.
        to: one of SPELLINGS.
        layout: the model it is for; None to take the released model of the file's family that most layers fit.

    Raises:
        NoLayerReached: the family is not known and no model was given, or no layer fits it.
        NotConvertible: some keys fit nothing in the model, or the dialect has no words for them; lists them all.
        NotAnAdapter, FileMissing, FileDamaged: see refusals and lora_file.
    """
    refuse_foreign(file)
    chosen = with_known_encoders(layout) if layout is not None else _released_model(file)
    key_map = map_keys(file.header.entries, NameTable(chosen))
    if key_map.unmatched:
        raise NotConvertible(file.name, [str(note) for note in key_map.unmatched])
    with file.tensors() as reader:
        conversion = _Conversion(file, SPELLINGS[to], chosen, reader)
        for layer in key_map.layers:
            conversion.take(layer)
        return conversion.finish(key_map.ignored)


def _released_model(file: LoraFile) -> ModelLayout:
    family = family_of_header(file.header)
    layouts = list(known_layouts(family.name))
    if not layouts:
        reason = "give the model with --model; its layers are not known by the file's names alone"
        raise NoLayerReached(file.name, family.name, "not given", [reason])
    fitting = [(len(map_keys(file.header.entries, NameTable(layout)).unmatched), layout) for layout in layouts]
    return min(fitting, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, slots=True)
class Written:
    """What a LoraConfig says of one layer."""

    rank: int
    alpha: float | None
    has_magnitude: bool
    has_bias: bool


class _Conversion:
    """Collects the pieces of every layer of the model, then writes them under the other dialect's names."""

    def __init__(self, file: LoraFile, spelling: Spelling, layout: ModelLayout, reader: TensorReader) -> None:
        self._file = file
        self._spelling = spelling
        self._layout = layout
        self._reader = reader
        has_alphas = any(key.endswith(".alpha") for key in file.header.entries)
        self._rules, self._notes = scale_rules(file.header.metadata, file.peft_config, has_alpha_tensors=has_alphas)
        self._pieces: dict[str, list[Piece]] = {}  # path -> pieces in the model's row order
        self._refused: list[str] = []
        self._stored: dict[str, str] = {}  # layer as it is written -> how its alpha was stored
        self._tensors: dict[str, Tensor] = {}
        self._written: dict[str, dict[str, Written]] = {}  # prefix in the configuration -> layer's name -> what it is

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
        parts = {self._layout.targets[path].part for path in self._pieces}
        for part in sorted(parts):
            self._write_part(part, alone=len(parts) == 1)
        if self._refused:
            raise NotConvertible(self._file.name, self._refused)
        if not self._tensors:
            family = family_of_header(self._file.header)
            reasons = [str(note) for note in ignored]
            raise NoLayerReached(self._file.name, family.name, self._layout.family.name, reasons)
        metadata, notes = self._metadata()
        configs = {prefix: lora_config(layers, self._names_in(prefix)) for prefix, layers in self._written.items()}
        if self._spelling.name == "diffusers":
            fields = {prefix + name: value for prefix, config in configs.items() for name, value in config.items()}
            metadata[ADAPTER_METADATA] = json.dumps(fields, indent=2, sort_keys=True)
        return Converted(
            tensors=self._tensors,
            layers=sum(len(layers) for layers in self._written.values()),
            metadata=metadata,
            peft_config={**self._source_config(), **configs[""]} if self._spelling.name == "peft" else None,
            dropped=ignored,
            notes=notes,
        )

    def _metadata(self) -> tuple[dict[str, str], list[str]]:
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
            most = Counter(self._stored.values()).most_common(1)[0][0]
            others = {layer: stored for layer, stored in self._stored.items() if stored != most}
            metadata[ALPHA_MARK] = json.dumps({"most": most, "others": others})
        if self._spelling.name != "peft" and self._file.peft_config is not None:
            metadata[CONFIG_MARK] = json.dumps(self._file.peft_config, sort_keys=True)
        return metadata, notes

    def _source_config(self) -> Mapping[str, Any]:
        """What the source's own LoraConfig said, for the fields that a conversion does not set."""
        if self._file.peft_config is not None:
            return self._file.peft_config
        return json_object(self._file.header.metadata.get(CONFIG_MARK, "{}"))

    def _write_part(self, part: str, *, alone: bool) -> None:
        targets = {t.inner: t for t in self._layout.targets.values() if t.part == part and t.path in self._pieces}
        shapes = {t.inner: t.shape for t in self._layout.targets.values() if t.part == part}
        family = self._layout.family
        prefix = self._spelling.prefix(family, part, self._layout.parts, alone=alone)
        for inner, names in _names(self._spelling.names_from(family, part), part, shapes).items():
            if inner not in targets:
                continue
            try:
                for name, piece in _in_slots(names, self._pieces[targets[inner].path], targets[inner]):
                    self._write(prefix, name, piece, targets[inner])
            except BadAdapter as reason:
                self._refused.append(f"'{inner}' ({reason})")

    def _write(self, prefix: str, name: str, piece: Piece, target: TargetLayer) -> None:
        spelled = prefix + (name if self._spelling.joined == DOTS else name.replace(DOTS, self._spelling.joined))
        tensors = _as_spelled(self._spelling, piece, target)
        strange = sorted(tensors.keys() - self._spelling.parameters.keys())
        if strange:
            raise BadAdapter(f"{self._spelling.name} has no words for {', '.join(strange)}")
        if spelled in self._stored:
            raise BadAdapter(f"{self._spelling.name} gives another layer the same name '{spelled}'")
        for role, tensor in tensors.items():
            self._tensors[spelled + self._spelling.parameters[role]] = tensor
        if piece.alpha is not None and not self._spelling.configured:
            self._tensors[spelled + self._spelling.parameters["alpha"]] = piece.alpha
        self._stored[spelled] = NO_ALPHA if piece.alpha is None else str(piece.alpha.dtype).removeprefix("torch.")
        configured, name = self._spelling.in_configuration(prefix, name)
        alpha = None if piece.alpha is None else float(piece.alpha)
        written = Written(piece.rank, alpha, "magnitude" in tensors, "up_bias" in tensors)
        self._written.setdefault(configured, {})[name] = written

    def _names_in(self, configured: str) -> Iterable[str]:
        """Every name that the layers of the model have in a configuration, of which it may mean only some."""
        family = self._layout.family
        for part in self._layout.parts:
            prefix = self._spelling.prefix(family, part, self._layout.parts)
            shapes = {t.inner: t.shape for t in self._layout.targets.values() if t.part == part}
            for names in _names(self._spelling.names_from(family, part), part, shapes).values():
                for name in names:
                    where, spelled = self._spelling.in_configuration(prefix, name.name)
                    if where == configured:
                        yield spelled


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
    rows = [
        place.rows or (0, target.shape[0] if target.shape else 0) for place, target in zip(places, targets, strict=True)
    ]
    if len(places) == 1 and places[0].source_rows is None:
        yield places[0], Piece(rows[0], whole.tensors, whole.alpha)
        return
    source = [place.source_rows or (0, 0) for place in places]
    stop = max(end for _, end in source)
    by_source = dict(zip(source, zip(places, rows, strict=True), strict=True))
    for piece in split(Piece((0, stop), whole.tensors, whole.alpha), source):
        place, own_rows = by_source[piece.rows]
        yield place, Piece(own_rows, piece.tensors, piece.alpha)


def _names(whose: str, part: str, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Sequence[Name]]:
    """Path inside a part -> its names in a dialect, one, or one for each run of rows."""
    names: dict[str, list[Name]] = {}
    if whose == DIFFUSERS:
        for name in diffusers_names(part, shapes):
            names.setdefault(name.inner, []).append(name)
    return {inner: names.get(inner, [Name(inner, inner)]) for inner in shapes}


def _in_slots(names: Sequence[Name], pieces: Sequence[Piece], target: TargetLayer) -> Iterable[tuple[str, Piece]]:
    """The pieces of a layer, cut and joined to the rows that a dialect's names stand for."""
    whole: Rows = (0, target.shape[0] if target.shape else 0)
    slots = {name.rows or whole: name for name in names}
    left = [cut for piece in pieces for cut in _cut(piece, list(slots))]
    for rows, name in slots.items():
        inside = [piece for piece in left if rows[0] <= piece.rows[0] and piece.rows[1] <= rows[1]]
        if not inside:
            continue
        piece = inside[0] if len(inside) == 1 and inside[0].rows == rows else join(inside, rows)
        yield name.name, swap_halves(piece) if name.swap_halves else piece


def _cut(piece: Piece, slots: Sequence[Rows]) -> Sequence[Piece]:
    """The piece itself where it lies in one slot, else its parts in each of them."""
    parts = [(max(piece.rows[0], start), min(piece.rows[1], stop)) for start, stop in slots]
    parts = [rows for rows in parts if rows[0] < rows[1]]
    return [piece] if len(parts) <= 1 else split(piece, sorted(parts))


def _as_spelled(spelling: Spelling, piece: Piece, target: TargetLayer) -> Mapping[str, Tensor]:
    """A piece's tensors in the shapes that a dialect stores."""
    tensors = dict(piece.tensors)
    magnitude = tensors.get("magnitude")
    sides = len(target.shape)
    if magnitude is not None and magnitude.dim() == 1 and not spelling.configured:
        tensors["magnitude"] = magnitude.reshape(-1, *[1] * (sides - 1))
    elif magnitude is not None and magnitude.dim() == 1 and sides == FOUR_SIDES:
        tensors["magnitude"] = magnitude.reshape(1, -1, 1, 1)
    elif magnitude is not None and magnitude.dim() > 1 and spelling.configured:
        raise BadAdapter(f"{spelling.name} has no words for magnitudes per input")
    if spelling.configured and "down" in tensors:
        kernel = target.shape[2:]
        tensors["down"] = tensors["down"].reshape(piece.rank, -1, *kernel)
        tensors["up"] = tensors["up"].reshape(tensors["up"].shape[0], piece.rank, *([1] * len(kernel)))
    if "up_bias" in tensors and not spelling.configured:
        bias = tensors.pop("up_bias")
        if "diff_bias" in tensors:
            raise BadAdapter("the file changes this layer's bias twice")
        tensors["diff_bias"] = bias if piece.scale == 1 else (bias.double() * piece.scale).to(bias.dtype)
    return tensors


def lora_config(layers: Mapping[str, Written], names: Iterable[str]) -> dict[str, Any]:
    """A LoraConfig of peft 0.21.2 for these layers, and for no others of the model's `names`."""
    known = list(names)
    ranks = {name: written.rank for name, written in layers.items() if written.rank}
    alphas = {name: _alpha_in_config(layers[name]) for name in ranks}
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else rank
    ends = {end for name in known for end in _ends(name)}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": _target_modules(layers.keys(), known),
        "rank_pattern": {_pattern(name, ends): other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {_pattern(name, ends): other for name, other in alphas.items() if other != alpha},
        "use_rslora": False,
        "use_dora": any(written.has_magnitude for written in layers.values()),
        "lora_bias": any(written.has_bias for written in layers.values()),
        "init_lora_weights": True,
    }


def _alpha_in_config(written: Written) -> float:
    return float(written.rank) if written.alpha is None else written.alpha


def _target_modules(layers: Collection[str], names: Iterable[str]) -> list[str] | str:
    """The layers by name; as a pattern where a name is also the end of another layer's, which PEFT would take too."""
    meant = list(layers)
    others = (name for name in names if name not in layers)
    if set(meant).isdisjoint(end for name in others for end in _ends(name)):
        return meant
    return "|".join(re.escape(name) for name in meant)


def _pattern(name: str, ends: Collection[str]) -> str:
    """The pattern that fits this layer alone, also where its name is the end of another one's."""
    return f"^{re.escape(name)}" if name in ends else re.escape(name)


def _ends(name: str) -> Iterable[str]:
    segments = name.split(DOTS)
    return (DOTS.join(segments[start:]) for start in range(1, len(segments)))
