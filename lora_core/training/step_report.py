"""What a training says after each of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did. Step 0 is the state before the training."""

    step: int
    steps: int
    loss: float | None  # weighted, of the step's batch
    learning_rate: float
    seconds: float  # that the step took
    validation: float | None = None  # error / error at the start, see validation
    suggestion: str = ""
    notes: Sequence[str] = field(default_factory=tuple[str, ...])
