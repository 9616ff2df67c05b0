"""All adapters of a graph as one: what is planned, what it costs, and the matrices that it is woven to."""

from .plan import AUTO, BRANCH, MERGE, MODES, PlannedLora, WeavePlan, strengths_at
from .policy import Decision, decide
from .schedule import Schedule, parse_schedule
from .weave import Weave
from .woven_layer import WovenLayer

__all__ = [
    "AUTO",
    "BRANCH",
    "MERGE",
    "MODES",
    "Decision",
    "PlannedLora",
    "Schedule",
    "Weave",
    "WeavePlan",
    "WovenLayer",
    "decide",
    "parse_schedule",
    "strengths_at",
]
