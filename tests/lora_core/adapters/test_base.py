"""An adapter knows its tensors and those of adapters inside it, and takes just as many back."""

import pytest
import torch
from lora_pack.lora_core.adapters import Adapter, FullDelta, LowRank
from lora_pack.lora_core.adapters.magnitude import Magnitude
from lora_pack.lora_core.adapters.row_order import SwappedHalves
from lora_pack.lora_core.adapters.row_runs import RowRuns

PAIR = LowRank(torch.ones(2, 4), torch.ones(6, 2), 1.0, (6, 4))
NESTED = {
    "one": (PAIR, 2),
    "inside": (SwappedHalves(PAIR), 2),
    "inside, with one behind": (Magnitude(PAIR, torch.ones(6, 1), False), 3),
    "several": (RowRuns((PAIR, FullDelta(torch.ones(6, 4))), (6, 6), (12, 4)), 3),
}


@pytest.mark.parametrize("kind", NESTED)
def test_tensors_are_given_and_taken_in_one_order(kind: str) -> None:
    adapter, count = NESTED[kind]
    tensors = adapter.tensors()
    assert len(tensors) == count
    others = tuple(torch.full_like(tensor, number) for number, tensor in enumerate(tensors))
    changed: Adapter = adapter.with_tensors(others)
    assert type(changed) is type(adapter)
    assert all(one is other for one, other in zip(changed.tensors(), others, strict=True))
    assert all(one is other for one, other in zip(adapter.tensors(), tensors, strict=True))


@pytest.mark.parametrize("kind", NESTED)
def test_another_count_of_tensors_is_refused(kind: str) -> None:
    adapter, count = NESTED[kind]
    for tensors in (adapter.tensors()[:-1], (*adapter.tensors(), torch.ones(1))):
        with pytest.raises(ValueError, match=f"holds {count} tensors, not {len(tensors)}"):
            adapter.with_tensors(tensors)
