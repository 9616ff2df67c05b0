"""What a training under way tells the page: the last state of every Train node, kept for pages opened later."""

import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

EVENT = "lora_loom.training"
SHOWN_POINTS = 300  # of a curve; a longer one is thinned out evenly
KEPT_VIEWS = 50  # nodes whose last state is kept
SECONDS_BETWEEN = 0.25  # least time between two messages to the page

PREPARING, TRAINING, STOPPED, CANCELLED, DONE, FAILED = (
    "preparing", "training", "stopped", "cancelled", "done", "failed",
)  # fmt: skip


def host_server() -> Any:
    """The host's server; None where the nodes run without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


@dataclass(slots=True, kw_only=True)
class TrainingView:
    """One training as the page shows it; see web/training_state.js."""

    node: str
    state: str = PREPARING
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])  # (step, loss)
    validation: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])  # (step, loss / loss at 0)
    previews: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # {step, filename, subfolder, type}
    notes: list[str] = field(default_factory=list[str])
    suggestion: str = ""
    learning_rate: float = 0.0
    file: str = ""  # what was written, as loaders list it

    def as_json(self) -> dict[str, Any]:
        """The view as plain data, its curves thinned out."""
        return asdict(self) | {"losses": thinned(self.losses), "validation": thinned(self.validation)}


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most SHOWN_POINTS of them, evenly, the last one among them."""
    every = -(-len(points) // SHOWN_POINTS) or 1
    return [point for number, point in enumerate(reversed(points)) if number % every == 0][::-1]


class TrainingBoard:
    """The views of all Train nodes, and the wishes to stop that come from the page."""

    def __init__(self) -> None:
        self._views: OrderedDict[str, TrainingView] = OrderedDict()
        self._stops: set[str] = set()
        self._sent = 0.0  # seconds, monotonic

    def begin(self, node: str, steps: int) -> TrainingView:
        """A new view for a node that begins to train."""
        self._stops.discard(node)
        self._views.pop(node, None)
        view = self._views[node] = TrainingView(node=node, steps=steps)
        while len(self._views) > KEPT_VIEWS:
            self._views.popitem(last=False)
        self.send(view, at_once=True)
        return view

    def send(self, view: TrainingView, *, at_once: bool = False) -> None:
        """Tell the pages, unless they were told a moment ago."""
        now = time.monotonic()
        if not at_once and now - self._sent < SECONDS_BETWEEN:
            return
        self._sent = now
        server = host_server()
        if server is not None:
            server.send_sync(EVENT, view.as_json())

    def ask_to_stop(self, node: str) -> bool:
        """Take down that a training should end and keep its result; False if none is under way there."""
        view = self._views.get(node)
        if view is None or view.state not in (PREPARING, TRAINING):
            return False
        self._stops.add(node)
        return True

    def should_stop(self, node: str) -> bool:
        """Whether a person asked to stop and keep."""
        return node in self._stops

    def all(self) -> list[dict[str, Any]]:
        """Every view, oldest first."""
        return [view.as_json() for view in self._views.values()]


BOARD = TrainingBoard()
