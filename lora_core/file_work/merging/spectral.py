"""Merges that work on the singular directions of the deltas: calibrated, decorrelated, aligned, orthogonal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..deltas.decompositions import svd
from ..deltas.factored import Factored, concat
from .core_space import core_space
from .elementwise import add_agreeing, keep_largest
from .layer_deltas import LayerDeltas, MergeSettings

SAME_DIRECTION = 1e-8  # of a stack of unit vectors: below this singular value they are one direction, said twice


def calibrated(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """The sum, with directions that several deltas share no stronger than they make them together.

    sigma_k is divided by eta_k = max(1, |u_k^T M|^2 / sum_i |u_k^T delta_i|^2), M the sum and u_k its left singular
    vectors: 1 for a direction of one delta alone, K for one that K deltas have alike. Source: SVC, 2026
    (arXiv 2602.05536), where eta_k is the plain mean over i of <u_k^T M, u_k^T delta_i> / |u_k^T delta_i|^2. There a
    delta that hardly has the direction decides, since its own norm divides; here each counts by its energy.
    """
    space = core_space(sources.deltas)
    left, values, right = svd(torch.stack(list(space.cores)).sum(dim=0))
    energies = torch.stack([(left.T @ core).square().sum(dim=1) for core in space.cores]).sum(dim=0)
    tiny = torch.finfo(values.dtype).tiny
    over = (values.square() / energies.clamp_min(tiny)).clamp_min(1.0)
    return space.delta((left * (values / over)) @ right)


def decorrelated(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """The sum of all singular triples, their left vectors made orthonormal together, and the right ones as well.

    delta = P([U_1 .. U_K]) diag(S_1 .. S_K) P([V_1 .. V_K])^T with P the polar factor, the nearest orthonormal matrix.
    Directions that are exactly the same share one. Source: Gargiulo et al. 2024, TSV-Merge (arXiv 2412.00081).
    """
    spectra = [delta.spectrum for delta in sources.deltas]
    left = _polar(torch.cat([s.left for s in spectra], dim=1))
    right = _polar(torch.cat([s.right for s in spectra]))
    values = torch.cat([s.values for s in spectra])
    return Factored(left * values, right)


def _polar(stack: Tensor) -> Tensor:
    left, values, right = svd(stack)
    kept = values > SAME_DIRECTION
    return left[:, kept] @ right[kept]


def aligned(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """[delta_1 .. delta_K] = U S [V_1 .. V_K]; the V_i, in common coordinates now, are merged by TIES: U S V.

    Reads density. Source: Stoica et al. 2024, KnOTS (arXiv 2410.19735).
    """
    space = core_space(sources.deltas)
    stacked = torch.cat(list(space.cores), dim=1)  # [p, K q]
    left, values, right = svd(stacked)
    floor = torch.finfo(values.dtype).eps * max(stacked.shape) * float(values[0]) if values.numel() else 0.0
    kept = values > floor
    parts = _columns(right[kept], [core.shape[1] for core in space.cores])
    # Back from the basis of rows that all sources share: the entries that TIES looks at are those of the V_i.
    aligned_parts = [part @ space.right for part in parts]
    thinned = [keep_largest(part, settings, torch.Generator()) for part in aligned_parts]
    up = space.left @ left[:, kept] * values[kept]
    return Factored(up, add_agreeing(thinned))


def _columns(matrix: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    return torch.split(matrix, list(widths), dim=1)


def orthogonal(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """Each delta without what lies in the rows and columns of those before it: the first of the files has its way.

    delta_i' = (I - P_left) delta_i (I - P_right), the P projecting on the directions of delta_1 .. delta_{i-1}.
    """
    kept = [sources.deltas[0]]
    for delta in sources.deltas[1:]:
        before = core_space(kept)
        up = delta.up - before.left @ (before.left.T @ delta.up)
        down = delta.down - (delta.down @ before.right.T) @ before.right
        kept.append(Factored(up, down))
    return concat(kept)
