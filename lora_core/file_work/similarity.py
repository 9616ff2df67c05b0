"""Tells how alike adapters are: norms, angles between the deltas and between their directions, and what cancels out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from ..names.block_names import block_of
from ..names.target_layer import ModelLayout
from .deltas.aligned_layers import ParameterOf
from .deltas.decompositions import svd
from .deltas.factored import Factored, concat, dot
from .layer_refusals import check_range, readable
from .progress import Progress, no_progress
from .sources import Source, factored_layers

MILD = 0.1  # cosines nearer to 0 than this say nothing: two files are hardly alike by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two files on one layer, their strengths included."""

    first: int  # numbers of the sources
    second: int
    dot: float  # <D1, D2>
    cosine: float  # of the angle between the deltas, -1..1
    outputs: float  # mean squared cosine of the principal angles between the columns of the deltas, 0..1
    inputs: float  # the same of their rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLikeness:
    """One layer that is changed by some of the files."""

    name: str
    block: str
    norms: Mapping[int, float]  # source -> |D|
    sum_norm: float  # |D1 + .. + DK|
    pairs: Sequence[Pair]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Likeness:
    """The report on some files."""

    files: Sequence[str]
    strengths: Sequence[float]
    layers: Sequence[LayerLikeness]

    def norm(self, number: int, block: str | None = None) -> float:
        """|D| of a file over all layers, or those of a block."""
        return math.sqrt(sum(layer.norms.get(number, 0.0) ** 2 for layer in self._in(block)))

    def cosine(self, first: int, second: int, block: str | None = None) -> float:
        """Of the angle between all of two files, or between what they do to a block."""
        product = sum(p.dot for layer in self._in(block) for p in layer.pairs if (p.first, p.second) == (first, second))
        norms = self.norm(first, block) * self.norm(second, block)
        return product / norms if norms else 0.0

    def gain(self, block: str | None = None) -> float:
        """|sum| / sqrt(sum |D|^2): 1 for files that don't touch each other, below where they cancel out, above where
        they say the same (at most the root of their number)."""
        apart = sum(norm**2 for layer in self._in(block) for norm in layer.norms.values())
        together = sum(layer.sum_norm**2 for layer in self._in(block))
        return math.sqrt(together / apart) if apart else 1.0

    def overlap(self, first: int, second: int) -> tuple[float, float]:
        """(outputs, inputs): mean overlap of the directions of two files over their common layers."""
        pairs = [p for layer in self.layers for p in layer.pairs if (p.first, p.second) == (first, second)]
        count = max(len(pairs), 1)
        return sum(p.outputs for p in pairs) / count, sum(p.inputs for p in pairs) / count

    def blocks(self) -> list[str]:
        """In the order of the model."""
        return list(dict.fromkeys(layer.block for layer in self.layers))

    def _in(self, block: str | None) -> Sequence[LayerLikeness]:
        return [layer for layer in self.layers if block is None or layer.block == block]

    def lines(self) -> list[str]:
        """The report for a person."""
        numbers = range(len(self.files))
        lines = [f"{name} x {self.strengths[n]:g}: norm {self.norm(n):.4g}" for n, name in enumerate(self.files)]
        for first, second in combinations(numbers, 2):
            cosine = self.cosine(first, second)
            outputs, inputs = self.overlap(first, second)
            lines.append(
                f"{self.files[first]} and {self.files[second]}: cosine {cosine:+.3f} ({_in_words(cosine)}); they share "
                f"{outputs:.1%} of their output directions and {inputs:.1%} of their input directions"
            )
        if len(self.files) > 1:
            lines.append(f"The sum has {self.gain():.3f} times the norm that files without a common direction give.")
        for block in self.blocks():
            norms = ", ".join(f"{self.norm(n, block):.3g}" for n in numbers)
            cosines = ", ".join(f"{self.cosine(a, b, block):+.3f}" for a, b in combinations(numbers, 2))
            lines.append(f"  {block}: norms {norms}" + (f"; cosines {cosines}" if cosines else ""))
        return lines

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        numbers = range(len(self.files))
        return {
            "files": [
                {"file": name, "strength": self.strengths[n], "norm": self.norm(n)} for n, name in enumerate(self.files)
            ],
            "pairs": [
                {"first": a, "second": b, "cosine": self.cosine(a, b), "shared_directions": list(self.overlap(a, b))}
                for a, b in combinations(numbers, 2)
            ],
            "gain": self.gain(),
            "blocks": {
                block: {
                    "norms": [self.norm(n, block) for n in numbers],
                    "cosines": [self.cosine(a, b, block) for a, b in combinations(numbers, 2)],
                    "gain": self.gain(block),
                }
                for block in self.blocks()
            },
            "layers": [
                {
                    "name": layer.name,
                    "norms": [layer.norms.get(n, 0.0) for n in numbers],
                    "sum_norm": layer.sum_norm,
                    "pairs": [
                        {"first": p.first, "second": p.second, "cosine": p.cosine, "dot": p.dot}
                        | {"outputs": p.outputs, "inputs": p.inputs}
                        for p in layer.pairs
                    ],
                }
                for layer in self.layers
            ],
        }


def similarity(
    sources: Sequence[Source],
    layout: ModelLayout | None = None,
    *,
    read: ParameterOf | None = None,
    progress: Progress = no_progress,
) -> Likeness:
    """How alike adapter files are, layer by layer; biases and norms are left aside.

    Raises: as merge_files.
    """
    files = [source.file.name for source in sources]
    what = f"{' and '.join(dict.fromkeys(files))} can't be compared"
    layers = factored_layers(sources, layout, what, has_weights=read is not None)
    found: list[LayerLikeness] = []
    for number, layer in enumerate(layers):
        progress(number, len(layers), layer.name)
        with readable(what, layer.name):
            own = layer.deltas(read)
        deltas = {n: delta.times(sources[n].strength_in(layer.target.part)) for n, delta in own.items()}
        check_range(what, layer.name, deltas.values())
        if deltas:
            found.append(_likeness(layer.name, block_of(layer.target), deltas))
    return Likeness(files=files, strengths=[source.strength for source in sources], layers=found)


def _likeness(name: str, block: str, deltas: Mapping[int, Factored]) -> LayerLikeness:
    return LayerLikeness(
        name=name,
        block=block,
        norms={number: delta.norm() for number, delta in deltas.items()},
        sum_norm=concat(list(deltas.values())).norm(),
        pairs=[_pair(a, b, deltas[a], deltas[b]) for a, b in combinations(sorted(deltas), 2)],
    )


def _pair(first: int, second: int, one: Factored, other: Factored) -> Pair:
    product, norms = dot(one, other), one.norm() * other.norm()
    return Pair(
        first=first,
        second=second,
        dot=product,
        cosine=max(-1.0, min(1.0, product / norms)) if norms else 0.0,
        outputs=_overlap(one.spectrum.left, other.spectrum.left),
        inputs=_overlap(one.spectrum.right.T, other.spectrum.right.T),
    )


def principal_cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosines of the principal angles between the spans of orthonormal columns: the singular values of Q1^T Q2.

    Source: Bjorck and Golub 1973.
    """
    return svd(one.T @ other)[1].clamp_max(1.0)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean squared cosine of the principal angles; 0 where one span is empty."""
    cosines = principal_cosines(one, other)
    return float(cosines.square().mean()) if cosines.numel() else 0.0


def _in_words(cosine: float) -> str:
    if abs(cosine) < MILD:
        return "they hardly touch each other"
    return "they say the same in part" if cosine > 0 else "they work against each other"
