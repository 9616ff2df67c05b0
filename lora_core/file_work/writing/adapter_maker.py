"""Takes worked-out changes layer by layer, rounds them, and makes an adapter file of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...adapters.scale_rules import ADAPTER_METADATA, PLAIN_ALPHAS
from ...errors import BadSetting, NotMergeable
from ...files.adapter_content import AdapterContent
from ...files.own_metadata import ALPHA_MARK, CONFIG_MARK, HISTORY, STALE
from ...names.block_names import block_of
from ...names.key_dialects.spelling import SPELLINGS
from ...names.target_layer import ModelLayout, Rows, TargetLayer
from ..deltas.factored import EXACT, Factored, distance, norm_of
from .new_adapter import LayerOutcome, NewAdapter
from .peft_config import configs_as_metadata
from .row_pieces import Piece
from .spelled_layers import spell

NOT_KEPT = (*STALE, ADAPTER_METADATA, *PLAIN_ALPHAS, ALPHA_MARK, CONFIG_MARK, HISTORY)
OF_ITS_MAKING = ("ss_network_dim", "ss_network_alpha", "ss_network_module", "ss_network_args")  # of the source alone


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
        config = spelled.configs[""] if self._spelling.name == "peft" else None
        content = AdapterContent(tensors=spelled.tensors, metadata=metadata, peft_config=config)
        return NewAdapter(content=content, layers=self._outcomes, notes=[*notes, *empty])


def _rounded(delta: Factored, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(up, down) in a dtype, each column of up about as long as its row of down: else one of them leaves the range.

    The lengths are moved by powers of two, which changes no digit.
    """
    ups, downs = delta.up.square().sum(dim=0).sqrt(), delta.down.square().sum(dim=1).sqrt()
    moved = torch.where((ups > 0) & (downs > 0), (ups / downs).log2() / 2, torch.zeros_like(ups)).round().exp2()
    return (delta.up / moved).to(dtype).contiguous(), (delta.down * moved[:, None]).to(dtype).contiguous()


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
