"""The layers that are trained: their factors in one buffer, and the switch that takes them all out for a while."""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import listed
from ..names.target_layer import UNET, TargetLayer
from .batches import INIT, generator_of
from .flat_parameters import FlatParameters
from .settings import INITS, OPTIMISERS, TrainSettings, rank_of
from .trainable import TrainableLayer
from .trained_file import TrainedLayer

RATE_SHARE = "rate_share"  # of a group of the optimiser: its learning rate / that of the denoiser


class TrainedAdapter:
    """A trainable branch for each target; down is drawn from the seed, up is 0."""

    def __init__(self, targets: Sequence[TargetLayer], settings: TrainSettings, device: torch.device) -> None:
        """targets: those of the denoiser first; the others, of text encoders, have a learning rate of their own."""
        self.settings = settings
        self._shares = [1.0]
        self._parts = Counter(target.part for target in targets)
        groups: list[list[tuple[int, ...]]] = [[]]
        for target in targets:
            if target.part != UNET and len(groups) == 1:
                groups.append([])
                self._shares.append(settings.text_encoder_lr)
            groups[-1] += _shapes(target, settings)
        self.too_small = sum(rank_of(target, settings) < settings.rank for target in targets)
        with torch.inference_mode(False):
            self.flat = FlatParameters(groups, device)
            pairs = list(zip(self.flat.views[::2], self.flat.views[1::2], strict=True))
            rng = generator_of(settings.seed, INIT)
            for down, _ in pairs:
                down.data.copy_(INITS[settings.init](torch.empty(down.shape), rng))
        scale = settings.alpha_of / settings.rank
        self.layers = {
            target.path: TrainableLayer(down, up, scale) for target, (down, up) in zip(targets, pairs, strict=True)
        }

    def optimiser(self) -> torch.optim.Optimizer:
        """A new one, with a group for the denoiser and one for the text encoders."""
        groups: list[dict[str, Any]] = [
            {"params": [part], RATE_SHARE: share} for part, share in zip(self.flat.groups, self._shares, strict=True)
        ]
        return OPTIMISERS[self.settings.optimiser](groups, self.settings.rate)

    def state_of(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Copies of what the optimiser remembers of each of its parts: "0.exp_avg" and the like."""
        return {
            f"{number}.{name}": value.clone()
            for number, part in enumerate(self.flat.groups)
            for name, value in optimiser.state.get(part, {}).items()
            if isinstance(value, Tensor)
        }

    def take_up(self, factors: Tensor, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
        """Go on from the factors and the optimiser's memory that an earlier run left; see state_of."""
        with torch.inference_mode(False):
            self.flat.whole.data.copy_(factors)
            device = self.flat.whole.device
            for number, part in enumerate(self.flat.groups):
                own = {k.removeprefix(f"{number}."): t for k, t in state.items() if k.startswith(f"{number}.")}
                optimiser.state[part] = {k: (t if k == "step" else t.to(device)).clone() for k, t in own.items()}

    def counted(self) -> str:
        """How many layers of which parts, how many numbers that is and how large a file."""
        layers = ", ".join(f"{count} layers of {part}" for part, count in self._parts.items())
        numbers = self.flat.whole.numel()
        return f"{layers}, {numbers:,} numbers ({numbers * self.flat.whole.element_size() / 1e6:.1f} MB)"

    @contextmanager
    def switched_off(self) -> Generator[None]:
        """Inside: the model is as it is untrained."""
        for layer in self.layers.values():
            layer.is_on = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.is_on = True

    def unreached_note(self) -> list[str]:
        """Which layers the gradient that was just made does not come to, as a line for a person; none if all are."""
        paths = [path for path, layer in self.layers.items() if layer.up.grad is None or not bool(layer.up.grad.any())]
        if not paths:
            return []
        return [f"{len(paths)} layers do not take part in what the model says, and are not written: {listed(paths)}"]

    def copies(self) -> list[TrainedLayer]:
        """The factors as they are now, on the CPU; without layers that no gradient has come to, if others have one."""
        all_layers = [TrainedLayer(path, _kept(layer.down), _kept(layer.up)) for path, layer in self.layers.items()]
        return [layer for layer in all_layers if bool(layer.up.any())] or all_layers


def _kept(factor: Tensor) -> Tensor:
    return factor.detach().to("cpu", copy=True)


def _shapes(target: TargetLayer, settings: TrainSettings) -> list[tuple[int, ...]]:
    """Of down and up."""
    rank, kernel = rank_of(target, settings), target.shape[2:]
    return [(rank, *target.shape[1:]), (target.shape[0], rank, *[1] * len(kernel))]
