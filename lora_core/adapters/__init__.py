"""The algorithms by which files change layers, one per file, and the table that tells them by their parameters."""

from .base import (
    BIAS,
    WEIGHT,
    Adapter,
    AdapterParts,
    AdditiveAdapter,
    BadAdapter,
    Builder,
    Built,
    FrozenLayer,
)
from .building import BUILDERS, BuiltLayer, build_layer, find_builder, is_complete, why_incomplete
from .enlarged import Enlarged
from .full_delta import FullDelta
from .layer_rows import LayerRows
from .low_rank import LowRank
from .whole_file import WholeFile

__all__ = [
    "BIAS",
    "BUILDERS",
    "WEIGHT",
    "Adapter",
    "AdapterParts",
    "AdditiveAdapter",
    "BadAdapter",
    "Builder",
    "Built",
    "BuiltLayer",
    "Enlarged",
    "FrozenLayer",
    "FullDelta",
    "LayerRows",
    "LowRank",
    "WholeFile",
    "build_layer",
    "find_builder",
    "is_complete",
    "why_incomplete",
]
