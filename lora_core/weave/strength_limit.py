"""How large a strength, or a factor of one, may be that a person types."""

import math

STRENGTH_LIMIT = 100.0  # of its absolute value, without unit
RANGE = f"from -{STRENGTH_LIMIT:g} to {STRENGTH_LIMIT:g}"  # for messages
BETWEEN = f"between -{STRENGTH_LIMIT:g} and {STRENGTH_LIMIT:g}"


def is_within_limit(strength: float) -> bool:
    """False for what is no number, too."""
    return math.isfinite(strength) and abs(strength) <= STRENGTH_LIMIT
