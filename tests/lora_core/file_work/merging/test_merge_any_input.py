"""Whatever numbers a file of any algorithm holds, merging ends with a file of finite numbers or with a reason."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_pack.lora_core import LoraError, open_lora
from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
from lora_pack.lora_core.file_work.merging.merge_files import MergeOrder, merge_files
from lora_pack.lora_core.file_work.merging.methods import METHODS
from lora_pack.lora_core.file_work.sources import Source
from safetensors.torch import load_file
from torch import Tensor

from ...adapter_files import write_adapter
from ..merge_files_for_tests import layout
from .test_merging import ALGORITHMS

FACTORS = (0.0, 1e-40, 1e-20, 1.0, -1.0, 1e20, 3e38)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
factors = st.lists(st.sampled_from(FACTORS) | st.just(1.0), min_size=8, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def scaled(tensors: Mapping[str, Tensor], by: list[float], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        key: t if key.endswith("alpha") else (t.double() * factor).to(dtype)
        for (key, t), factor in zip(tensors.items(), by, strict=False)
    }


@settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(st.sampled_from(sorted(ALGORITHMS)), min_size=1, max_size=2),
    by=factors,
    dtype=st.sampled_from(DTYPES),
    method=st.sampled_from(sorted(METHODS)),
    limited=st.booleans(),
    strength=st.sampled_from((1.0, -0.5, 1e-300, 1e300)),
)
def test_a_merge_of_any_numbers_is_finite_or_refused(
    folder: Path, names: list[str], by: list[float], dtype: torch.dtype, method: str, limited: bool, strength: float
) -> None:
    files = [
        write_adapter(folder / f"{n}.safetensors", scaled(ALGORITHMS[name], by, dtype)) for n, name in enumerate(names)
    ]
    limits = RankLimits(energy=0.9) if limited and METHODS[method].cuts else RankLimits()
    sources = [Source(open_lora(path), strength) for path in files]
    try:
        merge_files(sources, MergeOrder(method=method, limits=limits), layout()).write(folder / "out", replace=True)
    except LoraError as error:
        assert str(error)
        return
    assert all(bool(t.isfinite().all()) for t in load_file(folder / "out").values())
