"""Merged deltas against PEFT's add_weighted_adapter, where that is right: `cat` and `svd` of peft 0.21."""

import pytest
import torch
from lora_pack.lora_core.file_work.deltas.factored import Factored, concat, nearest
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

OUT, IN, RANKS, ALPHAS = 40, 24, (4, 6), (2.0, 9.0)


class OneLayer(nn.Module):
    """A model of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(IN, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def peft_merge(weights: list[float], combination: str, rank: int | None) -> tuple[Tensor, list[Factored]]:
    """(delta of PEFT's merged adapter, our factors of the adapters that it merged)."""
    torch.manual_seed(0)
    model = None
    for number, (own, alpha) in enumerate(zip(RANKS, ALPHAS, strict=True)):
        config = LoraConfig(r=own, lora_alpha=alpha, target_modules=["proj"], init_lora_weights=False)
        if model is None:
            model = get_peft_model(OneLayer(), config, adapter_name="0")
        else:
            model.add_adapter(str(number), config)
    assert model is not None
    layer = model.base_model.model.proj
    ours = [
        Factored(layer.lora_B[n].weight.detach().double() * (alpha / own), layer.lora_A[n].weight.detach().double())
        for n, own, alpha in zip("01", RANKS, ALPHAS, strict=True)
    ]
    model.add_weighted_adapter(["0", "1"], weights, "merged", combination_type=combination, svd_rank=rank)
    return layer.get_delta_weight("merged").detach().double(), ours


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.7, 0.4]])
def test_concat_is_pefts_cat(weights: list[float]) -> None:
    delta, ours = peft_merge(weights, "cat", None)
    merged = concat([one.times(w) for one, w in zip(ours, weights, strict=True)])
    assert merged.rank == sum(RANKS)
    assert (merged.dense() - delta).norm() < 1e-5 * delta.norm()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.7, 0.4]])
def test_svd_is_pefts_svd(weights: list[float]) -> None:
    delta, ours = peft_merge(weights, "svd", 3)
    merged = nearest(concat([one.times(w) for one, w in zip(ours, weights, strict=True)]).spectrum, 3)
    assert (merged.dense() - delta).norm() < 1e-5 * delta.norm()


def test_pefts_linear_is_no_sum_of_deltas() -> None:
    """Why there is no such method here: cross terms B_i A_j, of the size of the deltas themselves."""
    torch.manual_seed(0)
    ups, downs = torch.randn(2, OUT, 4).double(), torch.randn(2, 4, IN).double()
    exact = concat([Factored(u, d) for u, d in zip(ups, downs, strict=True)]).dense()
    factor_wise = ups.sum(dim=0) @ downs.sum(dim=0)
    assert (factor_wise - exact).norm() > 0.9 * exact.norm()
