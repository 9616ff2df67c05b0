"""The inputs that say how much of each layer's spectrum a node keeps."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.deltas.rank_limits import MIB, RankLimits
from ...lora_core.files.dtypes import DTYPES

MOST_RANK = 4096
MOST_MIB = 65536.0
AS_IT_IS = "as it is"


def limit_inputs(*, rank: int, with_size: bool) -> list[Any]:
    """Rank, energy, error, and for whole files the size; 0 is no limit, and the strictest of those given counts."""
    inputs: list[Any] = [
        io.Int.Input(
            "rank",
            default=rank,
            min=0,
            max=MOST_RANK,
            tooltip=f"Highest rank of a layer, a whole number from 0 to {MOST_RANK}; 0 is no limit. A layer that has "
            "less keeps what it has.",
        ),
        io.Float.Input(
            "energy",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Share of each layer's squared norm to keep, from 0 to 1; 0 is no limit. 0.99 leaves a tenth of "
            "the change out, 0.9999 a hundredth. Each layer gets the rank that it needs.",
        ),
        io.Float.Input(
            "max_error",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="|change - kept| / |change| that each layer may have, from 0 to 1; 0 is no limit.",
        ),
    ]
    if with_size:
        size = io.Float.Input(
            "size",
            default=0.0,
            min=0.0,
            max=MOST_MIB,
            step=1.0,
            tooltip=f"MiB for all matrices together, from 0 to {MOST_MIB:g}; 0 is no limit. Ranks go to the layers "
            "where they lower the error most.",
        )
        inputs.append(size)
    return inputs


def limits_of(rank: int, energy: float, max_error: float) -> RankLimits:
    """The limits that were given. Raises BadSetting."""
    return RankLimits(rank=rank or None, energy=energy or None, error=max_error or None)


def size_of(size: float) -> int | None:
    """MiB as bytes; None for no limit."""
    return round(size * MIB) or None


def dtype_input(default: str) -> io.Combo.Input:
    """What the numbers are stored as."""
    return io.Combo.Input(
        "dtype",
        options=[AS_IT_IS, *DTYPES],
        default=default,
        tooltip=f'What the numbers are stored as. "{AS_IT_IS}": what the LoRA has. fp16 keeps 3 digits and is what '
        "most files have, bf16 keeps 2, fp32 keeps 7 at twice the size.",
    )
