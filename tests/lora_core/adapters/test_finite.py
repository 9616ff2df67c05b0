"""Numbers that are not finite are found in every dtype, and large ones are not taken for them."""

import pytest
import torch
from lora_pack.lora_core.adapters.finite import MARKS, is_finite


@pytest.mark.parametrize("dtype", MARKS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_number_among_many_is_found(dtype: torch.dtype, bad: float) -> None:
    tensor = torch.ones(3, 50, dtype=torch.float32)
    tensor[1, 7] = bad
    cast = tensor.to(dtype)
    assert is_finite(cast) == bool(torch.isfinite(cast.float()).all())
    assert is_finite(torch.ones(3, 50).to(dtype))


@pytest.mark.parametrize("dtype", MARKS)
def test_the_largest_and_smallest_numbers_are_finite(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    assert is_finite(torch.tensor([limits.max, limits.min, limits.tiny, 0.0], dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("tensor", [torch.zeros(0), torch.ones(2, dtype=torch.int64), torch.ones(2, device="meta")])
def test_what_holds_no_numbers_of_that_kind_is_finite(tensor: torch.Tensor) -> None:
    assert is_finite(tensor)
