"""All adapters of a graph as one: what is planned, what it costs, and the matrices that it is woven to."""

from .plan import AUTO, BRANCH, MERGE, MODES, PlannedLora, WeavePlan
from .policy import Decision, decide
from .weave import Weave
from .woven_layer import WovenLayer

__all__ = [
    "AUTO",
    "BRANCH",
    "MERGE",
    "MODES",
    "Decision",
    "PlannedLora",
    "Weave",
    "WeavePlan",
    "WovenLayer",
    "decide",
]
