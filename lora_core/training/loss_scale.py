"""The factor that keeps small gradients of half precision above zero, and falls when large ones overflow."""

import torch

START = 2.0**14
LEAST = 1.0  # a gradient that overflows unscaled is no matter of scale


class LossScale:
    """The loss is multiplied by `value` before the backward pass, its gradient divided by it after.

    Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2; only falling, so that nothing is lost to trying.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """dtype: in which the model computes; only float16 needs a scale."""
        self.value = START if dtype == torch.float16 else 1.0

    def fall(self) -> bool:
        """Halve it after an overflow; False where that can't help."""
        if self.value <= LEAST:
            return False
        self.value /= 2
        return True
