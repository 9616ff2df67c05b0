"""Step parity: our trainer on the host's UNet against a plain PEFT + diffusers loop on the same weights."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from diffusers import UNet2DConditionModel
from lora_pack.lora_core.training import TrainSettings
from lora_pack.lora_core.training.dataset import TrainSample
from lora_pack.lora_core.training.objective import GAMMA, OBJECTIVES, Noising
from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names
from peft import LoraConfig
from torch import Tensor

from .adapters import ATTENTION
from .tiny_unets import CONTEXT, POOLED, TIME_WIDTH, TwinUNet, in_float64
from .training_parity import (
    ALPHA,
    GRADIENT_TOLERANCE,
    LATENT_SCALES,
    RANK,
    RATE,
    STEPS,
    Factors,
    Watched,
    assert_trains_alike,
    noise_levels,
    peft_factors,
)


def _sample(number: int, size: tuple[int, int], tokens: int) -> TrainSample:
    rng = torch.Generator().manual_seed(number)
    text = torch.randn(1, tokens, CONTEXT, generator=rng)
    pooled = torch.randn(1, POOLED, generator=rng)
    return TrainSample(
        latent=torch.randn(4, *size, generator=rng) * 4,
        conditioning=[[text, {"pooled_output": pooled}]],
        caption=f"picture {number}",
        name=f"{number}.png",
        size=(size[0] * 8, size[1] * 8),
    )


SETS = {
    "batch 1": ([_sample(1, (8, 8), 7)], 1),
    "batch 3 with captions of two lengths": (
        [_sample(n, (8, 8), tokens) for n, tokens in ((2, 7), (3, 14), (4, 7))],
        3,
    ),
    "two resolutions": ([_sample(5, (8, 8), 7), _sample(6, (8, 16), 7)], 1),
}


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def twin(request: pytest.FixtureRequest, twins: Any) -> TwinUNet:
    twin = in_float64(twins[request.param])
    if request.param == "SDXL":  # the host's class embeds picture sizes in the full width
        twin.patcher.model.embedder = Timestep(TIME_WIDTH)
    return twin


class DiffusersUNet:
    """diffusers' UNet with a PEFT adapter that begins as ours does."""

    def __init__(self, twin: TwinUNet, ours: Factors, objective: str) -> None:
        self.twin = twin
        self.objective = objective
        self.unet: UNet2DConditionModel = copy.deepcopy(twin.reference)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION))
        self.factors = peft_factors(
            self.unet, ours, lambda name: "diffusion_model." + twin.names[f"{name}.weight"].removesuffix(".weight")
        )
        self.optimiser = torch.optim.AdamW(
            [factor for pair in self.factors.values() for factor in pair], lr=RATE, betas=(0.9, 0.99), weight_decay=0.0
        )

    def loss(self, samples: Sequence[TrainSample], sigmas: Tensor, noise: Tensor) -> Tensor:
        table, scale = noise_levels(), LATENT_SCALES[self.twin.family]
        total = torch.zeros(())
        for sample, sigma, own in zip(samples, sigmas, noise, strict=True):
            timestep = (table - sigma.double()).abs().argmin()
            sigma = sigma.double()
            clean, root = (sample.latent * scale).double(), (1 + sigma**2).sqrt()
            text, extra = sample.conditioning[0]
            height, width = sample.size
            added = {
                "text_embeds": extra["pooled_output"].double(),
                "time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float64),
            }
            output = self.unet(
                ((clean + sigma * own) / root)[None], timestep, text.double(),
                added_cond_kwargs=added if self.twin.family == "SDXL" else None,
            ).sample[0]  # fmt: skip
            snr = sigma**-2
            if self.objective == "v":
                target, weight = (own - sigma * clean) / root, snr.clamp(max=GAMMA) / (snr + 1)
            else:
                target, weight = own, snr.clamp(max=GAMMA) / snr
            total = total + weight * (output - target).square().mean()
        return total / len(samples)

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_([factor for pair in self.factors.values() for factor in pair], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


def _settings(steps: int, batch: int, **others: Any) -> TrainSettings:
    return TrainSettings(
        steps=steps, batch=batch, rank=RANK, alpha=ALPHA, learning_rate=RATE, schedule="constant", warmup=0.0,
        init="kaiming", checkpointing="off", validate_every=0, **others,
    )  # fmt: skip


@pytest.mark.parametrize("case", SETS)
@pytest.mark.parametrize(("twin", "objective"), [("SD1.5", "eps"), ("SD1.5", "v"), ("SDXL", "eps")], indirect=["twin"])
def test_loss_gradients_and_factors_are_those_of_peft(
    twin: TwinUNet, case: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, batch = SETS[case]
    denoiser = HostDenoiser(twin.patcher, model_names(twin.patcher, None))
    denoiser.noising = Noising(
        OBJECTIVES[objective]
    )  # the UNet's weights are random, so that it can stand for either kind
    trainer = Watched(denoiser, samples, _settings(STEPS, batch))
    reference = DiffusersUNet(twin, trainer.factors(), objective)
    moved = assert_trains_alike(trainer, denoiser, reference, samples, [GRADIENT_TOLERANCE], monkeypatch)
    assert max(float(up.abs().max()) for _, up in moved.values()) > RATE * STEPS / 4


@pytest.mark.parametrize("twin", ["SD1.5"], indirect=True)
def test_the_gradient_of_a_batch_is_the_mean_of_the_gradients_of_its_pictures(twin: TwinUNet) -> None:
    samples, batch = SETS["batch 3 with captions of two lengths"]
    denoiser = HostDenoiser(twin.patcher, model_names(twin.patcher, None))
    trainer = Watched(denoiser, samples, _settings(1, batch))
    rng = torch.Generator().manual_seed(1)
    trainer.parameters.whole.data.add_(
        torch.randn(trainer.parameters.whole.shape, generator=rng) * 0.05
    )  # up is no longer 0
    running = trainer.run()
    next(running)
    drawn = trainer.batches.next()
    trainer.loss(drawn).backward()
    together = trainer.parameters.gradient.clone()
    trainer.parameters.gradient.zero_()
    for place in range(batch):
        alone = type(drawn)(
            drawn.numbers[place : place + 1],
            drawn.positions[place : place + 1],
            drawn.noise[place : place + 1],
            drawn.dropped[place : place + 1],
        )
        (trainer.loss(alone) / batch).backward()
    running.close()
    assert float((together - trainer.parameters.gradient).abs().max()) <= 1e-5 * float(together.abs().max())
