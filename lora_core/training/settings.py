"""What a person can choose about a training, the tables behind the choices, and what makes no sense among them."""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadTraining
from ..names.layer_kinds import is_attention, is_feed_forward
from ..names.target_layer import UNET, ModelLayout, TargetLayer
from ..weave.frozen_module import is_linear, is_plain_convolution
from .objective import WEIGHTINGS
from .timesteps import TIMESTEPS

AUTO = "auto"
ON, OFF = "on", "off"
TEXT_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.")  # in text encoders; embeddings and projections are never trained


ParameterGroups = list[dict[str, Any]]  # as torch's optimisers take them


def _adamw(groups: ParameterGroups, rate: float) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)


# What to train -> whether a matrix of the model belongs to it, by its path inside its part.
TARGETS: Mapping[str, Callable[[str], bool]] = {
    "attention": is_attention,
    "attention + ff": lambda inner: is_attention(inner) or is_feed_forward(inner),
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


CHOICES, LIMITS = "choices", "limits"  # what a field of TrainSettings says of itself


def _one_of(choices: Collection[str], default: str) -> Any:
    """A field that names one of these, in the order in which a person sees them."""
    return field(default=default, metadata={CHOICES: tuple(choices)})


def _within(low: float, high: float, default: float | None) -> Any:
    """A field with a number from low to high, both allowed; None is always allowed where it is the default."""
    return field(default=default, metadata={LIMITS: (low, high)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """All choices, each with the names or the numbers that make sense."""

    steps: int = _within(1, 1_000_000, 200)
    batch: int = _within(1, 1024, 4)  # pictures per step
    rank: int = _within(1, 4096, 16)
    alpha: float | None = _within(1e-6, 1e6, None)  # None: as large as the rank, so that the scale is 1
    learning_rate: float | None = _within(1e-9, 1.0, None)  # None: from the steps, see RATES
    text_encoder_lr: float = _within(0, 100, 0.5)  # learning rate of the text encoders / that of the denoiser
    seed: int = _within(0, 2**64 - 1, 0)
    targets: str = _one_of(TARGETS, "attention")
    algorithm: str = _one_of(ALGORITHMS, "lora")
    optimiser: str = _one_of(OPTIMISERS, "adamw")
    schedule: str = _one_of(SCHEDULES, "cosine")
    warmup: float = _within(0, 1, 0.05)  # share of the steps in which the rate rises from 0
    clip: float = _within(0, 1e6, 1.0)  # largest norm of the gradient of all trained numbers; 0: not clipped
    weighting: str = _one_of(WEIGHTINGS, "min-snr")
    timesteps: str = _one_of((AUTO, *TIMESTEPS), AUTO)
    init: str = _one_of(INITS, "kaiming")
    caption_dropout: float = _within(0, 1, 0.0)  # share of the pictures that are seen with an empty caption
    checkpointing: str = _one_of((AUTO, ON, OFF), AUTO)  # recompute activations: slower, less memory
    validate_every: int = _within(0, 1_000_000, 25)  # steps; 0: only before and after
    save_every: int = _within(0, 1_000_000, 50)  # steps between two saved states; 0: only when the run ends early

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
            r for look in (_no_choice, _beyond) for own in fields(self) for r in look(own, getattr(self, own.name))
        ]
        if wrong:
            raise BadTraining(wrong)


def _no_choice(own: Field[Any], value: Any) -> Iterator[str]:
    if CHOICES in own.metadata and value not in own.metadata[CHOICES]:
        yield f"{own.name} should be one of {', '.join(own.metadata[CHOICES])}, but is '{value}'"


def _beyond(own: Field[Any], value: Any) -> Iterator[str]:
    if LIMITS in own.metadata and value is not None:
        low, high = own.metadata[LIMITS]
        if not low <= value <= high:  # also NaN
            yield f"{own.name} should be {low:g} to {high:g}, but is {value}"


def choices_of(name: str) -> Sequence[str]:
    """The names that a setting can have, as a person sees them."""
    return next(own.metadata[CHOICES] for own in fields(TrainSettings) if own.name == name)


def settings_of(values: Mapping[str, Any]) -> TrainSettings:
    """The settings of these names and values. Raises BadTraining naming everything that makes no sense."""
    known = {field.name for field in fields(TrainSettings)}
    if unknown := [f"there is no setting '{name}'" for name in values if name not in known]:
        raise BadTraining(unknown)
    settings = TrainSettings(**values)
    settings.check()
    return settings


def chosen_layers(
    layout: ModelLayout, settings: TrainSettings, modules: Mapping[str, nn.Module], *, with_text: bool = False
) -> list[TargetLayer]:
    """The layers to train, in the model's order: those of the denoiser, then, if asked, those of its text encoders.

    modules: path -> module. A table of embeddings has a matrix too, but is no layer that a branch can stand beside.

    Raises BadTraining when one of the two has none.
    """
    wanted, with_convolutions = TARGETS[settings.targets], ALGORITHMS[settings.algorithm]
    matrices = [t for t in layout.targets.values() if t.is_matrix and _is_layer(modules.get(t.path))]
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


def _is_layer(module: nn.Module | None) -> bool:
    return module is not None and (is_linear(module) or is_plain_convolution(module))


def rank_of(target: TargetLayer, settings: TrainSettings) -> int:
    """The rank of a layer: as asked, but never more than the layer can have."""
    return min(settings.rank, target.shape[0], math.prod(target.shape[1:]))
