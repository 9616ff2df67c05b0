"""LoKr in factors: held against the dense Kronecker product in float64."""

from pathlib import Path

import pytest
import torch
from lora_pack.lora_core.adapters.kronecker import Kronecker
from lora_pack.lora_core.file_work.deltas.adapter_to_factored import factored
from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
from torch import Tensor

from ...adapter_files import write_adapter
from ..merge_files_for_tests import PROJ, WIDTH, deltas, kohya, merge, normal, written

SHAPES = {  # name -> (w1, w2, w2 as factors of this rank, kernel)
    "both whole": ((4, 6), (10, 5), None, ()),
    "w2 factored": ((4, 6), (10, 5), 2, ()),
    "wide": ((3, 8), (5, 9), None, ()),
    "a convolution": ((4, 2), (6, 5), None, (3, 3)),
    "a factored convolution": ((4, 2), (6, 5), 3, (3, 3)),
}


def lokr(name: str, scale: float = 1.0, seed: int = 0) -> tuple[Kronecker, Tensor]:
    """An adapter, and its delta [out, in * kernel] in float64."""
    (a, c), (b, d), rank, kernel = SHAPES[name]
    shape = (a * b, c * d, *kernel)
    columns = d * torch.Size(kernel).numel()
    w1 = normal(a, c, seed=seed)
    if rank is None:
        w2 = normal(b, d, *kernel, seed=seed + 1)
        return Kronecker(scale, shape, w1=w1, w2=w2), torch.kron(w1.double(), w2.double().flatten(1)) * scale
    up, down = normal(b, rank, seed=seed + 1), normal(rank, columns, seed=seed + 2)
    return Kronecker(scale, shape, w1=w1, w2_a=up, w2_b=down), torch.kron(
        w1.double(), up.double() @ down.double()
    ) * scale


@pytest.mark.parametrize("scale", [1.0, -0.3])
@pytest.mark.parametrize("name", SHAPES)
def test_the_spectrum_is_that_of_the_dense_product(name: str, scale: float) -> None:
    adapter, dense = lokr(name, scale)
    delta = factored(adapter).times(-2.0)
    wanted = -2.0 * dense
    assert torch.allclose(delta.dense(), wanted, atol=1e-12)
    values = torch.linalg.svdvals(wanted)[: delta.singular_values().numel()]
    assert torch.allclose(delta.singular_values(), values, atol=1e-12)
    spectrum = delta.spectrum
    assert torch.allclose((spectrum.left * spectrum.values) @ spectrum.right, wanted, atol=1e-12)
    eye = torch.eye(spectrum.values.numel(), dtype=torch.float64)
    assert torch.allclose(spectrum.left.T @ spectrum.left, eye, atol=1e-12)
    assert torch.allclose(spectrum.right @ spectrum.right.T, eye, atol=1e-12)


def test_the_rank_is_the_product_of_the_ranks() -> None:
    assert factored(lokr("w2 factored")[0]).rank == 4 * 2
    w1 = normal(6, 1).double() @ normal(1, 6, seed=1).double()
    adapter = Kronecker(1.0, (24, 24), w1=w1, w2=normal(4, 4, seed=2))
    delta = factored(adapter)
    assert delta.rank == 4 and delta.product is None  # w1 is of rank 1, though it is stored whole


def test_no_matrix_of_the_layers_size_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_pack.lora_core.file_work.deltas import decompositions, randomised_svd
    from lora_pack.lora_core.file_work.deltas import factored as factors

    sides: list[int] = []
    real = decompositions.svd

    def watched(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sides.append(min(matrix.shape))
        return real(matrix)

    monkeypatch.setattr(factors, "svd", watched)
    monkeypatch.setattr(randomised_svd, "svd", watched)
    delta = factored(Kronecker(1.0, (768, 768), w1=normal(16, 16), w2=normal(48, 48, seed=1)))
    assert delta.singular_values().numel() == 768
    assert sides == [16, 48]


def test_a_lokr_file_is_cut_to_the_nearest_of_its_rank(tmp_path: Path) -> None:
    tensors = {f"{kohya(PROJ)}.lokr_w1": normal(3, 3), f"{kohya(PROJ)}.lokr_w2": normal(WIDTH // 3, 4, seed=1)}
    path = write_adapter(tmp_path / "k.safetensors", tensors)
    dense = next(iter(deltas(path).values()))
    left, values, right = torch.linalg.svd(dense)
    for rank in (1, 5, 12):
        made = merge({path: -0.5}, "svd", limits=RankLimits(rank=rank), dtype=torch.float32)
        found = next(iter(written(made, tmp_path / f"{rank}.safetensors").values()))
        assert torch.allclose(found, -0.5 * (left[:, :rank] * values[:rank]) @ right[:rank], atol=1e-5)
        outcome = made.layers[0]
        assert (outcome.rank, outcome.rank_before) == (rank, 12)
        assert outcome.kept_energy == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))


def test_two_lokr_files_are_summed(tmp_path: Path) -> None:
    paths = {}
    for seed, strength in ((0, 1.0), (5, -0.5)):
        tensors = {
            f"{kohya(PROJ)}.lokr_w1": normal(3, 3, seed=seed),
            f"{kohya(PROJ)}.lokr_w2": normal(4, 4, seed=seed + 1),
        }
        paths[write_adapter(tmp_path / f"{seed}.safetensors", tensors)] = strength
    wanted = sum(strength * next(iter(deltas(path).values())) for path, strength in paths.items())
    made = merge(paths, "svd", limits=RankLimits(energy=1.0), dtype=torch.float32)
    found = next(iter(written(made, tmp_path / "sum.safetensors").values()))
    assert torch.allclose(found, wanted, atol=1e-5)
