"""Our trainer step by step beside a plain loop of PEFT on the same weights, pictures, noises and noise levels.

Both run in float64, so that what remains is no matter of the processor's kernels: the order in which float32 sums are
added up differs between them, and moves a gradient that almost cancels by a large share of itself. What the libraries
fix to float32 on the way (embeddings of times, encoded texts, the loss) is rounded once and alike.

A reference runs every picture on its own, with its own caption and size, and adds the losses up: what a batch means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytest
import torch
from lora_pack.lora_core.training import Trainer
from lora_pack.lora_core.training.dataset import TrainSample
from lora_pack.nodes.comfy_bridge import HostDenoiser
from torch import Tensor, nn

STEPS, RATE = 20, 1e-3
RANK, ALPHA = 4, 3.0
LATENT_SCALES = {"SD1.5": 0.18215, "SDXL": 0.13025}
# What is rounded to float32 on the way is wrong by up to 6e-8 of itself, and passes a few layers: measured 4e-7 in a
# gradient, 2e-7 in a loss. AdamW divides each gradient by its own size, so that the first step makes 5e-5 of it in the
# next gradients, and all steps 1.4e-4 in the factors.
LOSS_TOLERANCE = 2e-6  # relative, at the first step
LATER_LOSS_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 5e-6  # of the largest entry of a layer's gradient
LATER_GRADIENT_TOLERANCE = 5e-4  # behind a step of AdamW
FACTOR_TOLERANCE = 1e-3  # of the distance that AdamW can go in all steps, RATE * STEPS
ROUNDING = 1e-13  # of the largest entry of all, float64: a query that sees one place has no gradient, or only rounding

Pair = tuple[Tensor | None, Tensor | None]  # (down, up); None: no gradient
Factors = Mapping[str, tuple[Tensor, Tensor]]  # path in the host's model -> (down, up)
Parameters = dict[str, tuple[nn.Parameter, nn.Parameter]]


class Reference(Protocol):
    """A model with PEFT's adapters, which began as ours did, and their optimiser."""

    factors: Parameters

    def loss(self, samples: Sequence[TrainSample], sigmas: Tensor, noise: Tensor) -> Tensor:
        """Of pictures at [pictures] noise levels with noises [pictures, channels, height, width]; differentiable."""
        ...

    def step(self) -> None:
        """Clip, step and forget the gradients."""
        ...


class Watched(Trainer):
    """A trainer whose factors and gradients can be looked at."""

    def factors(self) -> Factors:
        return {path: (layer.down.detach(), layer.up.detach()) for path, layer in self.layers.items()}

    def gradients(self) -> Mapping[str, Pair]:
        return {path: (layer.down.grad, layer.up.grad) for path, layer in self.layers.items()}


def noise_levels() -> Tensor:
    """[1000] sigma of every timestep of SD1.5 and SDXL, float64."""
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return ((1 - (1 - alphas).cumprod(0)) / (1 - alphas).cumprod(0)).sqrt()


def peft_factors(model: nn.Module, ours: Factors, path_of: Any) -> Parameters:
    """The factors of PEFT's adapters in a model, set to ours, by the paths that path_of(module name) gives."""
    found: Parameters = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            path, layer = path_of(name), module
            found[path] = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            for theirs, mine in zip(found[path], ours[path], strict=True):
                theirs.data.copy_(mine.reshape(theirs.shape))
    return found


def assert_trains_alike(
    trainer: Watched,
    denoiser: HostDenoiser,
    reference: Reference,
    samples: Sequence[TrainSample],
    gradient_tolerances: Sequence[float],
    monkeypatch: pytest.MonkeyPatch,
) -> Factors:
    """Train both: every loss, the unclipped gradients of the first steps, and the factors after all; these, of PEFT.

    gradient_tolerances: of the first steps, as many as are looked at; at the very first one no down has a gradient,
        since every up is 0.
    """
    learn, losses, clip = trainer.learn, list[float](), trainer.parameters.clip

    def learn_beside(drawn: Any) -> float:
        def clip_after_looking(norm: float) -> Tensor:
            chosen = [samples[number] for number in drawn.numbers]
            theirs = reference.loss(chosen, denoiser.sigmas_at(drawn.positions), drawn.noise)
            theirs.backward()
            if len(losses) < len(gradient_tolerances):
                grads = {path: (down.grad, up.grad) for path, (down, up) in reference.factors.items()}
                _assert_close(trainer.gradients(), grads, gradient_tolerances[len(losses)])
            losses.append(float(theirs.detach()))
            return clip(norm)

        with monkeypatch.context() as watched:
            watched.setattr(trainer.parameters, "clip", clip_after_looking)
            loss = learn(drawn)
        assert loss == pytest.approx(losses[-1], rel=LOSS_TOLERANCE if len(losses) == 1 else LATER_LOSS_TOLERANCE)
        reference.step()
        return loss

    monkeypatch.setattr(trainer, "learn", learn_beside)
    assert len(list(trainer.run())) == STEPS + 1
    assert len(losses) == STEPS
    moved = {path: (down.detach(), up.detach()) for path, (down, up) in reference.factors.items()}
    _assert_close(trainer.factors(), moved, FACTOR_TOLERANCE, against=RATE * STEPS)
    return moved


def _assert_close(
    ours: Mapping[str, Pair], theirs: Mapping[str, Pair], tolerance: float, against: float | None = None
) -> None:
    """Every pair up to `tolerance` of `against`, or of the largest entry of its like."""
    assert ours.keys() == theirs.keys()
    largest = max(float(_given(other).abs().max()) for pair in theirs.values() for other in pair)
    for path, pair in ours.items():
        for mine, other in zip(map(_given, pair), map(_given, theirs[path]), strict=True):
            whole = float(other.abs().max()) if against is None else against
            wrong = float((mine - (other.reshape(mine.shape) if other.dim() else other)).abs().max())
            assert wrong <= tolerance * whole + ROUNDING * largest, path


def _given(gradient: Tensor | None) -> Tensor:
    return torch.zeros(()) if gradient is None else gradient
