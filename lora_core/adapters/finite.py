"""Tells whether a tensor holds NaN or infinity, from the bits of its numbers, in one pass without a copy as floats."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# dtype -> (integer of the same size, the bits that are all set in a number that is not finite).
# IEEE formats: the exponent. float8_e4m3fn has no infinity, and its NaN sets every bit but the sign.
MARKS: Mapping[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float8_e4m3fn: (torch.uint8, 0x7F),
    torch.float8_e5m2: (torch.uint8, 0x7C),
}


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite; True for integers, for no numbers, and on the meta device.

    Raises KeyError for a float dtype that is not in MARKS.
    """
    if tensor.is_meta or tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    integer, mark = MARKS[tensor.dtype]
    bits = tensor.contiguous().reshape(-1).view(integer).numpy()
    return bool(np.bitwise_and(bits, bits.dtype.type(mark)).max() != mark)
