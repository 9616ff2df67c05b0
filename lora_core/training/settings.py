"""What a person can choose about a training, the tables behind the choices, and what makes no sense among them."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import BadTraining
from ..names.target_layer import UNET, ModelLayout, TargetLayer
from .objective import WEIGHTINGS
from .timesteps import TIMESTEPS

AUTO = "auto"
ON, OFF = "on", "off"
ATTENTION = re.compile(r"(?:^|[._])(?:attn\d?|attention|self_attn|cross_attn|\w+_attn)(?:$|\.)|\.(?:to_[qkv]|qkv)$")
FEED_FORWARD = re.compile(r"(?:^|\.)(?:ff|ffn|mlp|feed_forward|\w+_mlp)\.")
FUSED_BLOCK = re.compile(r"(?:^|\.)linear[12]$")  # attention and feed-forward in one: single blocks of Flux
TEXT_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.")  # in text encoders; embeddings and projections are never trained


ParameterGroups = list[dict[str, Any]]  # as torch's optimisers take them


def _adamw(groups: ParameterGroups, rate: float) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)


# What to train -> whether a matrix of the model belongs to it, by its path inside its part.
TARGETS: Mapping[str, Callable[[str], bool]] = {
    "attention": lambda inner: bool(ATTENTION.search(inner) or FUSED_BLOCK.search(inner)),
    "attention + ff": lambda inner: bool(
        ATTENTION.search(inner) or FEED_FORWARD.search(inner) or FUSED_BLOCK.search(inner)
    ),
    "all": lambda inner: True,
}
# Algorithm -> whether it also changes convolutions; these are taken wherever they are, 1x1 ones as linear layers are.
ALGORITHMS: Mapping[str, bool] = {"lora": False, "locon": True}
OPTIMISERS: Mapping[str, Callable[[ParameterGroups, float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
}
# Share of the run after warming up, 0..1 -> factor of the learning rate.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}
# Draw of down [rank, inputs]; up is zero, so the model begins as it is. Kaiming-uniform with a = sqrt(5) is U(+-bound).
INITS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "kaiming": lambda down, rng: down.uniform_(-1, 1, generator=rng) / math.sqrt(down[0].numel()),
    "gaussian": lambda down, rng: down.normal_(generator=rng) / down.shape[0],
}
RATES = ((100, 1e-3), (300, 5e-4), (1000, 2e-4))  # up to so many steps -> learning rate; a longer run: LONG_RATE
LONG_RATE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """All choices. Names are keys of the tables above."""

    steps: int = 200
    batch: int = 4  # pictures per step
    rank: int = 16
    alpha: float | None = None  # None: as large as the rank, so that the scale is 1
    learning_rate: float | None = None  # None: from the steps, see RATES
    text_encoder_lr: float = 0.5  # learning rate of the text encoders, if they are trained / that of the denoiser
    seed: int = 0
    targets: str = "attention"
    algorithm: str = "lora"
    optimiser: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.05  # share of the steps in which the rate rises from 0
    clip: float = 1.0  # largest norm of the gradient of all factors together; 0: not clipped
    weighting: str = "min-snr"
    timesteps: str = AUTO
    init: str = "kaiming"
    caption_dropout: float = 0.0  # share of the pictures that are seen with an empty caption
    checkpointing: str = AUTO  # recompute activations in the backward pass: slower, less memory
    validate_every: int = 25  # steps; 0: only before and after
    save_every: int = 50  # steps between two saved states; 0: only when the run ends early

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        if self.learning_rate is not None:
            return self.learning_rate
        return next((rate for steps, rate in RATES if self.steps <= steps), LONG_RATE)

    @property
    def alpha_of(self) -> float:
        """alpha as a number."""
        return float(self.rank) if self.alpha is None else self.alpha

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, 1 to steps."""
        warm = max(1, round(self.warmup * self.steps)) if self.warmup else 0
        if step <= warm:
            return self.rate * step / warm
        return self.rate * SCHEDULES[self.schedule]((step - warm - 1) / max(1, self.steps - warm))

    def fingerprint(self) -> str:
        """Equal for trainings of which one can go on where the other stopped."""
        return json.dumps(asdict(self) | {"validate_every": 0, "save_every": 0}, sort_keys=True)

    def check(self) -> None:
        """Raises BadTraining naming everything that makes no sense."""
        wrong = [
            f"{name} should be one of {', '.join(table)}, but is '{getattr(self, name)}'"
            for name, table in _TABLES.items()
            if getattr(self, name) not in table
        ]
        wrong += [
            f"{name} should be {low:g} to {high:g}, but is {getattr(self, name)}"
            for name, (low, high) in _RANGES.items()
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high  # also NaN
        ]
        if wrong:
            raise BadTraining(wrong)


_TABLES: Mapping[str, Mapping[str, Any]] = {
    "targets": TARGETS,
    "algorithm": ALGORITHMS,
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "weighting": WEIGHTINGS,
    "timesteps": {AUTO: None, **TIMESTEPS},
    "init": INITS,
    "checkpointing": {AUTO: None, ON: None, OFF: None},
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "batch": (1, 1024),
    "rank": (1, 4096),
    "alpha": (1e-6, 1e6),
    "learning_rate": (1e-9, 1.0),
    "text_encoder_lr": (0, 100),
    "seed": (0, 2**64 - 1),
    "warmup": (0, 1),
    "clip": (0, 1e6),
    "caption_dropout": (0, 1),
    "validate_every": (0, 1_000_000),
    "save_every": (0, 1_000_000),
}


def settings_of(values: Mapping[str, Any]) -> TrainSettings:
    """The settings of these names and values. Raises BadTraining naming everything that makes no sense."""
    known = {field.name for field in fields(TrainSettings)}
    if unknown := [f"there is no setting '{name}'" for name in values if name not in known]:
        raise BadTraining(unknown)
    settings = TrainSettings(**values)
    settings.check()
    return settings


def chosen_layers(layout: ModelLayout, settings: TrainSettings, *, with_text: bool = False) -> list[TargetLayer]:
    """The layers to train, in the model's order: those of the denoiser, then, if asked, those of its text encoders.

    Raises BadTraining when one of the two has none.
    """
    wanted, with_convolutions = TARGETS[settings.targets], ALGORITHMS[settings.algorithm]
    matrices = [target for target in layout.targets.values() if target.is_matrix]
    found = [t for t in matrices if t.part == UNET and (wanted(t.inner) if len(t.shape) == 2 else with_convolutions)]
    texts = [
        t for t in matrices if t.part != UNET and len(t.shape) == 2 and TEXT_BLOCK.search(t.inner) and wanted(t.inner)
    ]
    wrong: list[str] = []
    if not found:
        wrong.append(f"the model ({layout.family.name}) has no layer that '{settings.targets}' names; use 'all'")
    if with_text and not texts:
        wrong.append(f"the text encoder has no layer that '{settings.targets}' names; disconnect clip")
    if wrong:
        raise BadTraining(wrong)
    return [*found, *texts] if with_text else found


def rank_of(target: TargetLayer, settings: TrainSettings) -> int:
    """The rank of a layer: as asked, but never more than the layer can have."""
    return min(settings.rank, target.shape[0], math.prod(target.shape[1:]))
