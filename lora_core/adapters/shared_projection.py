"""VeRA: two vectors per layer between two frozen random matrices that all layers share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, FrozenLayer, as_input, check_shape
from .channels import is_plain, mixed
from .finite import is_finite

A, B = "vera_A", "vera_B"
PRNG_KEY = "projection_prng_key"  # of PEFT's configuration


@dataclass(frozen=True, slots=True, eq=False)
class SharedProjection(AdditiveAdapter):
    """delta = diag(outputs) @ b @ diag(ranks) @ a.

    Sources: Kopiczko et al. 2023 (arXiv 2310.11454) eq. 2; PEFT 0.21.2 tuners.vera, which slices the shared matrices.
    """

    outputs: Tensor  # [out], lambda_b
    ranks: Tensor  # [rank], lambda_d
    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    shape: tuple[int, ...]  # [out, in] of the weight

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        return torch.mm(self._up(), self._down()).reshape(self.shape)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch."""
        if not is_plain(self.shape, x):
            return AdditiveAdapter.branch(self, x, plain, layer)
        down = self._down().reshape(-1, *self.shape[1:])
        return mixed(self._up(), layer.apply(as_input(down, x), x), self.shape)

    def _down(self) -> Tensor:
        return self.a.float() * self.ranks.float()[:, None]

    def _up(self) -> Tensor:
        return self.b.float() * self.outputs.float()[:, None]


def draw_projections(key: int, rank: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """(a [rank, inputs], b [outputs, rank]) as PEFT draws them from a key, bit for bit.

    Args:
        key: projection_prng_key of the configuration.
        rank: r of the configuration.
        inputs: the most inputs that a layer of the adapter has.
        outputs: the most outputs.

    Source: PEFT 0.21.2 tuners.vera.model, uniform numbers of Kaiming's bound, a first.
    """
    generator = torch.Generator(device="cpu").manual_seed(key)
    drawn: list[Tensor] = []
    for shape in ((rank, inputs), (outputs, rank)):
        bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
        drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return drawn[0], drawn[1]


def _build(parts: AdapterParts) -> Built:
    outputs, ranks = parts.tensors["vera_lambda_b"].flatten(), parts.tensors["vera_lambda_d"].flatten()
    if A not in parts.whole.shared or B not in parts.whole.shared:
        raise BadAdapter(_why_missing(parts))
    out, inputs = parts.shape[0], math.prod(parts.shape[1:])
    a, b = parts.whole.shared[A], parts.whole.shared[B]
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] < inputs or b.shape[0] < out:
        raise BadAdapter(f"shape mismatch: the layer is {list(parts.shape)}, {A} {list(a.shape)}, {B} {list(b.shape)}")
    a, b = a[:, :inputs], b[:out]
    if not (is_finite(a) and is_finite(b)):
        raise BadAdapter("the projections that all layers share hold NaN or infinite numbers")
    adapter = SharedProjection(outputs, ranks, a, b, parts.shape)
    check_shape(adapter, parts.shape)
    return Built(adapter=adapter, algorithm="VeRA", rank=a.shape[0])


def _why_missing(parts: AdapterParts) -> str:
    if PRNG_KEY not in parts.whole.config:
        return (
            f"incomplete: the file lacks base_model.{A} and base_model.{B}, and no adapter_config.json beside it says "
            f"from which {PRNG_KEY} they are drawn"
        )
    return (
        f"incomplete: the file lacks base_model.{A} and base_model.{B}; they can be drawn again from the {PRNG_KEY} of "
        f"adapter_config.json only for a model that has every layer of the file"
    )


BUILDER = Builder(algorithm="VeRA", required=frozenset({"vera_lambda_b", "vera_lambda_d"}), sides=1, build=_build)
