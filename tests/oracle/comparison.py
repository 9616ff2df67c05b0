"""Applies a LoRA through our node, and compares outputs to the tolerance that the project promises."""

from typing import Any

from lora_pack.lora_core.weave import AUTO
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.sockets.socket_types import ERROR
from torch import Tensor

TOLERANCE = 1e-5  # largest absolute difference of outputs whose size is of the order of 1, float32
NOTICEABLE = 1e-2  # the least effect that an adapter must have for a comparison to mean anything


def apply(model: Any, name: str, strength: float = 1.0, mode: str = AUTO) -> Any:
    """The model that our node gives; any key that fits nothing is an error."""
    return ApplyLora.execute(model, name, strength, strength, ERROR, mode=mode).args[0]


def apply_to_both(model: Any, clip: Any, name: str, strengths: tuple[float, float] = (1.0, 1.0)) -> tuple[Any, Any]:
    """(model, CLIP) that our node gives at (model strength, CLIP strength)."""
    return ApplyLora.execute(model, name, *strengths, ERROR, clip).args[:2]


def largest_difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one.double() - other.double()).abs().max().item()


def assert_same_effect(case: str, ours: Tensor, reference: Tensor, base: Tensor) -> None:
    """`ours` equals `reference`, and neither is just `base`. Says how close they are; see it with pytest -s."""
    difference, effect = largest_difference(ours, reference), largest_difference(reference, base)
    found = f"{case}: difference {difference:.1e}, effect {effect:.2f}"
    print(f"[oracle] {found}")
    assert effect > NOTICEABLE, found
    assert difference <= TOLERANCE, found
