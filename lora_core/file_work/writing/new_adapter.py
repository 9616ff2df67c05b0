"""Collects the worked-out changes of layers and makes an adapter file of them, telling what storing them costs."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...adapters.scale_rules import ADAPTER_METADATA, PLAIN_ALPHAS
from ...errors import BadSetting, FileNotWritten, NotMergeable
from ...files.lora_file import PEFT_CONFIG_NAME
from ...files.lora_in_memory import LoraInMemory, lora_in_memory
from ...names.key_dialects.spelling import SPELLINGS
from ...names.target_layer import UNET, ModelLayout, TargetLayer
from ..deltas.factored import EXACT, Factored, dot
from .conversion import ALPHA_MARK, CONFIG_MARK, STALE
from .row_pieces import Piece, Rows
from .spelled_layers import configs_as_metadata, spell, write_adapter

Progress = Callable[[int, int, str], None]  # (layers done, layers in all, the layer now worked on)
DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BLOCK = re.compile(r"^(?:.*?\.\d+(?=\.|$)|[^.]+)")  # the path up to its first number
HISTORY = "lora_loom.made_by"  # metadata: how the file came about
NOT_KEPT = (*STALE, ADAPTER_METADATA, *PLAIN_ALPHAS, ALPHA_MARK, CONFIG_MARK, HISTORY)
OF_ITS_MAKING = ("ss_network_dim", "ss_network_alpha", "ss_network_module", "ss_network_args")  # of the source alone


def no_progress(done: int, total: int, name: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOutcome:
    """What became of one layer's matrix. Norms are Frobenius norms."""

    name: str
    block: str
    rank: int  # stored
    rank_before: int  # before it was cut
    norm: float  # of the change that was asked for
    kept_energy: float  # share of the squared norm that the cut left, 0..1
    error: float  # norm of (stored - asked for), rounding included

    @property
    def relative_error(self) -> float:
        """Error as a share of the norm; 0 for a change of 0."""
        return self.error / self.norm if self.norm else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewAdapter:
    """An adapter file, not yet written, and what its making did to each layer."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    peft_config: Mapping[str, Any] | None  # what adapter_config.json beside the file has to say
    layers: Sequence[LayerOutcome]
    notes: Sequence[str]

    def write(self, path: Path, *, replace: bool = False) -> None:
        """Write the file whole or not at all. Raises FileNotWritten, also if it is there and not to be replaced."""
        check_out(path, replace=replace, configured=self.peft_config is not None)
        write_adapter(path, self.tensors, self.metadata, self.peft_config)

    def in_memory(self, name: str) -> LoraInMemory:
        """The adapter to be used as it is, without a file."""
        return lora_in_memory(name, self.tensors, self.metadata, self.peft_config)

    @property
    def error(self) -> float:
        """Of all layers together, |stored - asked for| / |asked for|."""
        return _share(self.layers)

    def blocks(self) -> Mapping[str, tuple[float, float]]:
        """Block of the model -> (kept share of the squared norm, relative error)."""
        found: dict[str, list[LayerOutcome]] = {}
        for layer in self.layers:
            found.setdefault(layer.block, []).append(layer)
        return {block: (_kept(layers), _share(layers)) for block, layers in found.items()}

    def lines(self) -> list[str]:
        """The outcome for a person."""
        ranks = [layer.rank for layer in self.layers]
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
        lines = [f"{len(self.tensors)} tensors, {size / 1024**2:.1f} MiB."]
        if ranks:
            worst = max(self.layers, key=lambda layer: layer.relative_error)
            lines.append(
                f"{len(ranks)} matrices, rank {min(ranks)} to {max(ranks)}. Relative error {self.error:.2e} in all, "
                f"{worst.relative_error:.2e} at most ({worst.name})."
            )
            cut = any(layer.rank < layer.rank_before for layer in self.layers)
            kept = {block: share for block, (share, _) in self.blocks().items()} if cut else {}
            lines += [f"  {block}: {share:.4%} of the energy kept" for block, share in kept.items()]
        return [*lines, *(f"Note: {note}." for note in self.notes)]

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {
            "tensors": len(self.tensors),
            "relative_error": self.error,
            "blocks": {block: {"kept_energy": k, "relative_error": e} for block, (k, e) in self.blocks().items()},
            "layers": [
                {
                    "name": layer.name,
                    "rank": layer.rank,
                    "rank_before": layer.rank_before,
                    "norm": layer.norm,
                    "kept_energy": layer.kept_energy,
                    "relative_error": layer.relative_error,
                }
                for layer in self.layers
            ],
            "notes": list(self.notes),
        }


def check_out(path: Path, *, replace: bool, configured: bool = False) -> None:
    """Raise FileNotWritten where a file can't or should not be written, before any work is done."""
    if not path.parent.is_dir():
        raise FileNotWritten(path.name, f"its folder {path.parent} is not there")
    if path.is_dir():
        raise FileNotWritten(path.name, "it is a folder")
    beside = [path.parent / PEFT_CONFIG_NAME] if configured else []
    there = [one.name for one in (path, *beside) if one.exists()]
    if there and not replace:
        raise FileNotWritten(path.name, f"{' and '.join(there)} is there already", "Give --force to replace it.")


class AdapterMaker:
    """Takes the changes layer by layer, rounds them to the file's dtype, and writes them in a dialect."""

    def __init__(self, layout: ModelLayout, dialect: str, dtype: torch.dtype) -> None:
        if dialect not in SPELLINGS:
            raise BadSetting(f"the dialect should be one of {', '.join(sorted(SPELLINGS))}, but is '{dialect}'")
        self._layout = layout
        self._spelling = SPELLINGS[dialect]
        self._dtype = dtype
        self._pieces: dict[str, list[Piece]] = {}
        self._outcomes: list[LayerOutcome] = []
        self._too_large: list[str] = []
        self._empty: list[str] = []

    def add(
        self,
        target: TargetLayer,
        rows: Rows,
        name: str,
        *,
        matrix: tuple[Factored, Factored | Tensor] | None,
        vectors: Mapping[str, Tensor],
        rank_before: int = 0,
        kept_energy: float = 1.0,
    ) -> None:
        """Take the changes of some rows of a layer.

        Args:
            target: the layer.
            rows: of its output.
            name: for the report.
            matrix: the change of the weight (to be stored, that was asked for, perhaps as [out, in]); None for none.
            vectors: role -> change of the bias, or of a weight with one side.
            rank_before: of the change before it was cut.
            kept_energy: share of that change's squared norm that is left, 0..1.
        """
        tensors = {role: vector.to(self._dtype) for role, vector in vectors.items() if bool(vector.ne(0).any())}
        alpha: Tensor | None = None
        if matrix is not None and matrix[0].rank:
            up, down = _rounded(matrix[0], self._dtype)
            kernel = target.shape[2:]
            tensors["down"] = down.reshape(-1, *target.shape[1:])
            tensors["up"] = up.reshape(*up.shape, *[1] * len(kernel))
            alpha = torch.tensor(float(up.shape[1]), dtype=torch.float32)
            stored, wanted = Factored(up.to(EXACT), down.to(EXACT)), matrix[1]
            outcome = LayerOutcome(
                name=name,
                block=block_of(target),
                rank=stored.rank,
                rank_before=rank_before,
                norm=norm_of(wanted),
                kept_energy=kept_energy,
                error=distance(stored, wanted),
            )
            self._outcomes.append(outcome)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            self._too_large.append(f"'{name}' (its numbers don't fit {self._dtype}; store them as fp32)")
        elif tensors:
            self._pieces.setdefault(target.path, []).append(Piece(rows, tensors, alpha))
        else:
            self._empty.append(name)

    def finish(
        self, what: str, sources: Sequence[Mapping[str, str]], history: Mapping[str, Any], notes: Sequence[str]
    ) -> NewAdapter:
        """The file. Raises NotMergeable naming every layer that the dialect or the dtype can't hold.

        Args:
            what: is being done to what, for the error.
            sources: the metadata of the source files; what they agree in is kept.
            history: how the file comes about, for its metadata.
            notes: for the report.
        """
        if self._too_large:
            raise NotMergeable(what, self._too_large)
        if not self._pieces:
            raise NotMergeable(what, ["no layer is changed at all, so there is nothing to write"])
        spelled = spell(self._pieces, self._spelling, self._layout)
        if spelled.refused:
            raise NotMergeable(what, spelled.refused)
        metadata = _metadata(sources, history)
        if self._spelling.name == "diffusers":
            metadata[ADAPTER_METADATA] = configs_as_metadata(spelled.configs)
        empty = [f"{len(self._empty)} layers are not changed at all and were left out"] if self._empty else []
        return NewAdapter(
            tensors=spelled.tensors,
            metadata=metadata,
            peft_config=spelled.configs[""] if self._spelling.name == "peft" else None,
            layers=self._outcomes,
            notes=[*notes, *empty],
        )


def _rounded(delta: Factored, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(up, down) in a dtype, each column of up about as long as its row of down: else one of them leaves the range.

    The lengths are moved by powers of two, which changes no digit.
    """
    ups, downs = delta.up.square().sum(dim=0).sqrt(), delta.down.square().sum(dim=1).sqrt()
    moved = torch.where((ups > 0) & (downs > 0), (ups / downs).log2() / 2, torch.zeros_like(ups)).round().exp2()
    return (delta.up / moved).to(dtype).contiguous(), (delta.down * moved[:, None]).to(dtype).contiguous()


def norm_of(delta: Factored | Tensor) -> float:
    """|D|."""
    return delta.norm() if isinstance(delta, Factored) else math.sqrt(float(delta.double().square().sum()))


def distance(one: Factored, other: Factored | Tensor) -> float:
    """|D1 - D2|; by dot products, to about 1e-8 of the norms, or by subtraction from a matrix."""
    if isinstance(other, Tensor):
        return math.sqrt(float((one.dense().to(other.dtype) - other).double().square().sum()))
    return math.sqrt(max(dot(one, one) - 2 * dot(one, other) + dot(other, other), 0.0))


def block_of(target: TargetLayer) -> str:
    """The block of the model that a layer is in, with the text encoder's name where it is in one."""
    found = BLOCK.match(target.inner)
    block = found[0] if found else target.inner
    return block if target.part == UNET else f"{target.part}.{block}"


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The dtype that holds the numbers of all others: the sources' own if they agree in one that trainers store."""
    found = set(dtypes)
    (only,) = found if len(found) == 1 else (torch.float32,)
    return only if only in DTYPES.values() else torch.float16 if only.itemsize == 1 else torch.float32


def _metadata(sources: Sequence[Mapping[str, str]], history: Mapping[str, Any]) -> dict[str, str]:
    """What all sources say alike, without what described the tensors as they were, and how the file came about."""
    first: Mapping[str, str] = sources[0] if sources else {}
    others = sources[1:]
    left_out = {*NOT_KEPT, *OF_ITS_MAKING}
    kept = {
        name: value
        for name, value in first.items()
        if name not in left_out and all(other.get(name) == value for other in others)
    }
    return {"format": "pt", **kept, HISTORY: json.dumps(history, sort_keys=True)}


def _share(layers: Sequence[LayerOutcome]) -> float:
    whole = sum(layer.norm**2 for layer in layers)
    return math.sqrt(sum(layer.error**2 for layer in layers) / whole) if whole else 0.0


def _kept(layers: Sequence[LayerOutcome]) -> float:
    whole = sum(layer.norm**2 for layer in layers)
    return sum(layer.kept_energy * layer.norm**2 for layer in layers) / whole if whole else 1.0
