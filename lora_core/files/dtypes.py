"""The dtypes that adapter files are written in, and which of them holds the numbers of others."""

from collections.abc import Iterable, Mapping

import torch

DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The dtype that holds the numbers of all others: the sources' own if they agree in one that trainers store."""
    found = set(dtypes)
    (only,) = found if len(found) == 1 else (torch.float32,)
    return only if only in DTYPES.values() else torch.float16 if only.itemsize == 1 else torch.float32
