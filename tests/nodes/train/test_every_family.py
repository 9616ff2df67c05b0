"""Every family that the host can sample is trained through the host's own classes, with right gradients."""

from typing import Any

import pytest
import torch
from lora_pack.lora_core import load_lora
from lora_pack.lora_core.training import Trainer, TrainSettings
from lora_pack.lora_core.training.settings import TARGETS
from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names
from torch import Tensor

from .families.building import build, is_of_host, samples
from .families.host_classes import LIKE_ANOTHER, NOT_TRAINED
from .families.recipes import RECIPES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the host's own

STEPS_OF_DIFFERENCES = (
    3e-2,
    3e-3,
)  # of the factors' own size: one is too wide for what bends, one too fine for float32
TOLERANCE = 2e-3


class Watched(Trainer):
    """A trainer whose gradient at one batch can be compared with differences of the loss."""

    def gradient_and_slope(self) -> tuple[Tensor, float]:
        """The gradient of a batch, and how far the slope along it, from differences, is off its length."""
        batch = self.batches.next()
        loss = lambda: self.loss(batch)  # noqa: E731
        with torch.inference_mode(False), self.denoiser.differentiable():
            self._draw_ups()
            with torch.enable_grad():
                self._backward(loss, 1.0)
            gradient = self.parameters.gradient.clone()
            self.parameters.gradient.zero_()
            length = float(gradient.norm())
            slopes = [self._slope(loss, gradient / length, step) for step in STEPS_OF_DIFFERENCES]
        return gradient, min(abs(slope - length) / length for slope in slopes)

    def _draw_ups(self) -> None:
        """So that down has a gradient too."""
        rng = torch.Generator().manual_seed(9)
        for layer in self.layers.values():
            layer.up.data.copy_(torch.randn(layer.up.shape, generator=rng) * 0.1)

    def _slope(self, loss: Any, direction: Tensor, step: float) -> float:
        """By differences of fourth order."""
        whole = self.parameters.whole.data
        start = whole.clone()

        def at(shift: float) -> float:
            with torch.no_grad():
                whole.copy_(start + shift * direction)
                return float(loss().double())

        found = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
        whole.copy_(start)
        return found


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_family_trains(name: str, targets: str, host: object, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[name]
    if not is_of_host(recipe):
        pytest.skip(f"this host has no {recipe.host_class}")
    model = build(recipe, monkeypatch)
    before = {path: tensor.clone() for path, tensor in model.model.state_dict().items()}
    found: dict[str, Tensor] = {}
    for checkpointing in ("off", "on"):
        settings = TrainSettings(
            steps=1, batch=2, rank=4, learning_rate=1e-3, targets=targets, checkpointing=checkpointing, save_every=0
        )
        trainer = Watched(HostDenoiser(model, model_names(model, None)), samples(recipe), settings)
        with torch.inference_mode():
            steps = trainer.run()
            next(steps)
            found[checkpointing], wrong = trainer.gradient_and_slope()
            assert wrong <= TOLERANCE
            *_, last = steps
        assert last.loss is not None and last.validation is not None and torch.isfinite(torch.tensor(last.loss))
    largest = float(found["off"].abs().max())
    assert float((found["off"] - found["on"]).abs().max()) <= 1e-5 * largest
    _assert_read_back(trainer, model)
    after = model.model.state_dict()
    assert all(torch.equal(tensor, after[path]) for path, tensor in before.items())
    assert all("forward" not in vars(module) for module in model.model.modules())


def _assert_read_back(trainer: Trainer, model: Any) -> None:
    """Every key of the file is found by this pack, for the layer that was trained, and by the host's own loader."""
    import comfy.lora

    lora = trainer.adapter("trained")
    names = model_names(model, None)
    loaded = load_lora(lora, names.layout, names.table)
    assert not loaded.report.unmatched and not loaded.report.is_refused
    trained = {path for path, layer in trainer.layers.items() if bool(layer.up.any())}
    assert {placed.place.path for placed in loaded.adapters} == trained
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(lora.content.tensors), keys, log_missing=False)
    assert len(patches) == len(trained)


def test_the_models_of_the_host_are_in_the_table_or_it_is_said_why_not(host: object) -> None:
    import comfy.supported_models

    known = {recipe.host_class for recipe in RECIPES.values()} | set(LIKE_ANOTHER) | set(NOT_TRAINED)
    assert [model.__name__ for model in comfy.supported_models.models if model.__name__ not in known] == []


@pytest.mark.parametrize("different", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_is_its_pictures_one_by_one(
    name: str, different: bool, host: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name]
    if not is_of_host(recipe):
        pytest.skip(f"this host has no {recipe.host_class}")
    model = build(recipe, monkeypatch)
    denoiser = HostDenoiser(model, model_names(model, None))
    lengths = recipe.lengths if different else (recipe.lengths[0],) * 2
    pictures = samples(recipe)
    texts = [recipe.conditioning(length) for length in lengths]
    texts[1][0][0] = -texts[1][0][0]
    noisy = torch.stack([picture.latent for picture in pictures])
    sigmas = denoiser.sigmas_at(torch.tensor([0.3, 0.6]))

    def say(*places: int) -> Tensor:
        index = list(places)
        own = [pictures[place] for place in places], [texts[place] for place in places]
        conditions = denoiser.conditions(*own, noisy[index].shape)
        return denoiser.predict(noisy[index], sigmas[index], conditions)

    with denoiser.frozen(), torch.inference_mode(False), torch.no_grad(), denoiser.differentiable():
        together, alone = say(0, 1), torch.cat([say(0), say(1)])
    assert float((together - alone).abs().max()) <= 1e-5 * float(alone.abs().max())
