"""XLabs: "double_blocks.0.processor.qkv_lora1.down.weight", adapters of an attention processor of Flux, no alpha."""

from .dialect import LORA, Dialect, Parameter

DIALECT = Dialect(
    name="xlabs",
    parameters=(
        Parameter(".down.weight", "down", LORA),
        Parameter(".up.weight", "up", LORA),
    ),
)
