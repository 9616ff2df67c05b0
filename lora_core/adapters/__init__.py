"""The algorithms: one per file, joined here into the table from the parameters in a file to the adapter they make."""

from collections.abc import Sequence

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built
from .low_rank import BUILDER as LOW_RANK
from .low_rank import LowRank

# Tried in order; the first whose required parameters are there builds the adapter.
BUILDERS: Sequence[Builder] = (LOW_RANK,)

__all__ = ["BUILDERS", "Adapter", "AdapterParts", "BadAdapter", "Builder", "Built", "LowRank"]
