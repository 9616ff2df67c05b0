"""AdaLoRA: a low-rank delta in the form of a singular value decomposition, with a rank of its own per layer."""

from dataclasses import replace

from .base import AdapterParts, BadAdapter, Builder, Built
from .low_rank import low_rank

EPSILON = 1e-5  # PEFT adds it to the rank that it divides by


def _build(parts: AdapterParts) -> Built:
    """delta = alpha / (ranknum + epsilon) * up @ diag(values) @ down.

    ranknum is the rank before training: `init_r` of PEFT's configuration, since pruning keeps the scale. Without both,
    it is the rank found. Sources: Zhang et al. 2023 (arXiv 2303.10512) eq. 3; PEFT 0.21.2 tuners.adalora.
    """
    down, values = parts.tensors["down"], parts.tensors["lora_E"]
    if down.dim() < 2 or values.numel() != down.shape[0]:
        raise BadAdapter(f"shape mismatch: lora_A is {list(down.shape)}, lora_E is {list(values.shape)}")
    if down.shape[0] == 0:
        raise BadAdapter("rank 0")
    before = _rank_before(parts, down.shape[0])
    _, alpha = parts.scale(max(round(before), 1))
    scale = (alpha if alpha > 0 else before) / (before + EPSILON)
    wide = down.float() * values.float().reshape(-1, *[1] * (down.dim() - 1))
    adapter, rank, _ = low_rank(replace(parts, tensors={**parts.tensors, "down": wide}), scale)
    return Built(adapter=adapter, algorithm="AdaLoRA", rank=rank, alpha=alpha)


def _rank_before(parts: AdapterParts, found: int) -> float:
    ranknum = parts.tensors.get("ranknum")
    if ranknum is not None and ranknum.numel() == 1 and not ranknum.is_meta:
        stored = float(ranknum.double().item())
        if stored > 0:
            return stored
    stated = parts.whole.peft_number("init_r", found)
    return stated if stated > 0 else found


BUILDER = Builder(
    algorithm="AdaLoRA",
    required=frozenset({"down", "up", "lora_E"}),
    optional=frozenset({"ranknum"}),
    build=_build,
)
