"""Makes an adapter of the difference of two checkpoints, layer by layer: no more than one layer is in memory."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadSetting, DifferentFamilies, NotMergeable
from ..files.lora_file import Reader
from ..loading.checkpoint import Checkpoint
from ..names.key_dialects.spelling import SPELLINGS
from ..names.target_layer import ModelLayout, TargetLayer
from .deltas.factored import EXACT, Factored, nearest
from .deltas.randomised_svd import leading_spectrum
from .deltas.rank_limits import RankLimits
from .progress import Progress, no_progress
from .writing.adapter_maker import AdapterMaker
from .writing.new_adapter import NewAdapter
from .writing.spelled_layers import rows_as_written

# Root mean square of the rounding of one number, as a share of it. Measured on normal weights.
ROUNDING = {torch.bfloat16: 0.0017, torch.float16: 0.0017 / 8, torch.float8_e4m3fn: 0.027, torch.float8_e5m2: 0.054}
LARGEST = 1e15  # in a difference; the squares of larger ones leave float32
MARGIN = 1.05  # over the largest singular value of even noise, which is so large only for sides without end


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of both checkpoints."""

    base: TargetLayer
    tuned: TargetLayer


def extract(
    base: Checkpoint,
    tuned: Checkpoint,
    limits: RankLimits,
    *,
    dialect: str = "kohya",
    dtype: torch.dtype = torch.float16,
    cut_noise: bool = False,
    progress: Progress = no_progress,
) -> NewAdapter:
    """The adapter that turns one checkpoint into another, as near as the limits allow.

    Differences are taken in float32. Biases and norms are stored whole, where the dialect has words for them.

    Args:
        base: the model as it was.
        tuned: the model as it is to become.
        limits: for every layer.
        dialect: to write.
        dtype: to write.
        cut_noise: leave out singular values that are no larger than the checkpoints' own rounding makes them.
        progress: is told of every layer.

    Raises:
        BadSetting: there is no limit.
        DifferentFamilies: the checkpoints are of two families.
        NotMergeable: layers of other shapes, or with NaN; lists all.
        FileMissing, FileDamaged: a file can't be read.
    """
    if not limits.given:
        raise BadSetting("say how far to cut: a rank, an energy, an error or a ratio")
    return _Extraction(base, tuned, limits, dialect, dtype, cut_noise, progress).run()


class _Extraction:
    """One extraction under way."""

    def __init__(
        self,
        base: Checkpoint,
        tuned: Checkpoint,
        limits: RankLimits,
        dialect: str,
        dtype: torch.dtype,
        cut_noise: bool,
        progress: Progress,
    ) -> None:
        self._base, self._tuned = base, tuned
        self._limits = limits
        self._layout = base.layout()
        self._dialect = dialect
        self._maker = AdapterMaker(self._layout, dialect, dtype)
        self._has_words_for_vectors = "diff_bias" in SPELLINGS[dialect].parameters
        self._cut_noise = cut_noise
        self._progress = progress
        self._what = f"{tuned.name} - {base.name} can't be extracted"
        self._bad: list[str] = []
        self._noisy = 0  # values kept that rounding alone could have made
        self._vectors_left_out = 0

    def run(self) -> NewAdapter:
        other = self._tuned.layout()
        if self._layout.family.differs_from(other.family):
            families = [(self._base.name, self._layout.family.name), (self._tuned.name, other.family.name)]
            raise DifferentFamilies(families)
        layers, notes = self._common(other)
        rows = rows_as_written(SPELLINGS[self._dialect], self._layout)
        with self._base.file.tensors() as base, self._tuned.file.tensors() as tuned:
            for number, layer in enumerate(layers):
                self._progress(number, len(layers), layer.base.path)
                self._add(layer, base, tuned, rows[layer.base.path])
            notes += self._elsewhere(base, tuned, other)
        self._progress(len(layers), len(layers), "")
        if self._bad:
            raise NotMergeable(self._what, self._bad)
        history: dict[str, Any] = {"by": "extract", "base": self._base.name, "tuned": self._tuned.name}
        history |= {name: limit for name, limit in asdict(self._limits).items() if limit is not None}
        return self._maker.finish(self._what, [], history, [*notes, *self._own_notes()])

    def _common(self, other: ModelLayout) -> tuple[list[_Layer], list[str]]:
        """The layers of both files, and notes on those of one."""
        theirs = {(target.part, target.inner): target for target in other.targets.values()}
        layers: list[_Layer] = []
        missing = 0
        for target in self._layout.targets.values():
            found = theirs.pop((target.part, target.inner), None)
            if found is None:
                missing += 1
            elif found.shape != target.shape:
                self._bad.append(f"'{target.path}' ({list(target.shape)} there, {list(found.shape)} here)")
            else:
                layers.append(_Layer(target, found))
        if self._bad or not layers:
            raise NotMergeable(self._what, self._bad or ["the files have no layer in common"])
        notes = [f"{missing} layers of {self._base.name} are not in {self._tuned.name}"] if missing else []
        return layers, [*notes, *([f"{len(theirs)} layers are in {self._tuned.name} alone"] if theirs else [])]

    def _add(self, layer: _Layer, base: Reader, tuned: Reader, runs: Sequence[tuple[int, int]]) -> None:
        before = self._base.value(base, layer.base.weight_name)
        difference = self._tuned.value(tuned, layer.tuned.weight_name) - before
        bias = self._bias(layer, base, tuned)
        if not bool((difference.abs() <= LARGEST).all()):
            self._bad.append(f"'{layer.tuned.weight_name}' (NaN, or a difference beyond {LARGEST:g})")
            return
        for start, stop in runs if difference.dim() else ():
            vectors = {} if bias is None else {"diff_bias": bias[start:stop]}
            name = layer.base.path if len(runs) == 1 else f"{layer.base.path}[{start}:{stop}]"
            if not layer.base.is_matrix:
                vectors |= self._vector(layer.base.whole_role, difference[start:stop])
                self._maker.add(layer.base, (start, stop), name, matrix=None, vectors=vectors)
                continue
            matrix = difference[start:stop].flatten(1)
            floor = self._floor(layer, before[start:stop].flatten(1), matrix)
            self._add_matrix(layer.base, (start, stop), name, matrix, vectors, floor)

    def _add_matrix(
        self,
        target: TargetLayer,
        rows: tuple[int, int],
        name: str,
        matrix: Tensor,
        vectors: dict[str, Tensor],
        floor: float,
    ) -> None:
        if not bool(matrix.any()):
            self._maker.add(target, rows, name, matrix=None, vectors=vectors)
            return
        found = leading_spectrum(matrix, self._limits, _draw(name))
        values = found.spectrum.values.double()
        shape = (matrix.shape[0], matrix.shape[1])
        rank = self._limits.keep(values, shape, found.missing)
        above = int((values[:rank] > floor).sum())
        if self._cut_noise:
            rank = above
        else:
            self._noisy += rank - above
        kept = nearest(found.spectrum, rank)
        cut = Factored(kept.up.to(EXACT), kept.down.to(EXACT))
        self._maker.add(
            target,
            rows,
            name,
            matrix=(cut, matrix),
            vectors=vectors,
            rank_before=min(shape),
            kept_energy=found.share_of_first(rank),
        )

    def _floor(self, layer: _Layer, before: Tensor, difference: Tensor) -> float:
        """The largest singular value that rounding both weights can be expected to make.

        Noise of a norm e spread evenly over [m, n] has singular values up to e (1/sqrt(m) + 1/sqrt(n)).
        """
        dtypes = (
            self._base.dtype(layer.base.weight_name),
            self._tuned.dtype(layer.tuned.weight_name),
        )
        norms = (float(weight.square().sum().sqrt()) for weight in (before, before + difference))
        noise = math.hypot(*(ROUNDING.get(dtype, 0.0) * norm for dtype, norm in zip(dtypes, norms, strict=True)))
        return MARGIN * noise * sum(1 / math.sqrt(side) for side in difference.shape)

    def _bias(self, layer: _Layer, base: Reader, tuned: Reader) -> Tensor | None:
        if not (layer.base.has_bias and layer.tuned.has_bias):
            return None
        difference = self._tuned.value(tuned, layer.tuned.bias_name) - self._base.value(base, layer.base.bias_name)
        if not bool(difference.isfinite().all()):
            self._bad.append(f"'{layer.tuned.bias_name}' (NaN or infinite numbers)")
        return self._vector("diff_bias", difference).get("diff_bias")

    def _vector(self, role: str, difference: Tensor) -> dict[str, Tensor]:
        """The change of a bias or norm, where there is one and the dialect can say it."""
        if not bool(difference.any()):
            return {}
        self._vectors_left_out += not self._has_words_for_vectors
        return {role: difference} if self._has_words_for_vectors else {}

    def _elsewhere(self, base: Reader, tuned: Reader, other: ModelLayout) -> list[str]:
        """A note on parameters that differ and belong to no layer that an adapter can change, such as a VAE's."""
        layouts = ((self._base, self._layout), (self._tuned, other))
        own = {file.place(name).key for file, found in layouts for t in found.targets.values() for name in _names(t)}
        common = self._base.header.entries.keys() & self._tuned.header.entries.keys()
        differing = sorted(name for name in common - own if not torch.equal(_bytes(base, name), _bytes(tuned, name)))
        if not differing:
            return []
        return [
            f"{len(differing)} parameters outside of the layers that adapters change differ as well, and are not in "
            f"the file: {', '.join(differing[:3])}{' and others' if len(differing) > 3 else ''}"
        ]

    def _own_notes(self) -> list[str]:
        notes: list[str] = []
        if self._noisy:
            notes.append(
                f"{self._noisy} of the singular values kept are no larger than the checkpoints' rounding makes them; "
                "cut_noise leaves them out"
            )
        if self._vectors_left_out:
            notes.append(
                f"{self._vectors_left_out} changed biases and norms were left out: {self._dialect} has no word"
            )
        return notes


def _names(target: TargetLayer) -> tuple[str, str]:
    return target.weight_name, target.bias_name


def _bytes(reader: Reader, name: str) -> Tensor:
    return reader.tensor(name).reshape(-1).view(torch.uint8)


def _draw(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
