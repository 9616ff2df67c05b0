"""Step parity of text encoder training: our trainer through the host's CLIP against transformers + PEFT + diffusers."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from comfy.sd import load_lora_for_models
from comfy.utils import load_torch_file
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from lora_pack.lora_core import list_targets
from lora_pack.lora_core.file_work.writing.conversion import convert
from lora_pack.lora_core.files.safetensors_writer import write_safetensors
from lora_pack.lora_core.names.key_dialects.spelling import SPELLINGS
from lora_pack.lora_core.training import Trainer, TrainSettings
from lora_pack.lora_core.training.dataset import TrainSample
from lora_pack.lora_core.training.objective import GAMMA
from lora_pack.nodes.comfy_bridge import HostDenoiser, HostTextEncoder, model_names
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from .adapters import ATTENTION, unload
from .comparison import TOLERANCE, apply_to_both, largest_difference
from .tiny_clips import PARTS, TwinClip, twin_clip
from .tiny_clips import in_float64 as clip_in_float64
from .tiny_unets import TIME_WIDTH, TwinUNet, twin_unet
from .tiny_unets import in_float64 as unet_in_float64
from .training_parity import (
    ALPHA,
    GRADIENT_TOLERANCE,
    LATENT_SCALES,
    LATER_GRADIENT_TOLERANCE,
    RANK,
    RATE,
    STEPS,
    Factors,
    Watched,
    assert_trains_alike,
    noise_levels,
    peft_factors,
)

SHARE = 0.5  # of the model's learning rate
GRADIENT_TOLERANCES = (GRADIENT_TOLERANCE, LATER_GRADIENT_TOLERANCE)
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
CHUNK = 77  # tokens
LONG = "a loom weaves " + "three threads of wool " * 30  # more than one chunk of tokens


def _sample(number: int, caption: str) -> TrainSample:
    rng = torch.Generator().manual_seed(number)
    return TrainSample(
        latent=torch.randn(4, 8, 8, generator=rng) * 4,
        conditioning=None,  # never read: the caption is encoded at every step
        caption=caption,
        name=f"{number}.png",
        size=(64, 64),
    )


SETS = {
    "one picture": ([_sample(1, "a red loom")], 1),
    "captions of different lengths": ([_sample(2, "a red loom"), _sample(3, LONG), _sample(4, "")], 3),
}


class DiffusersPipeline:
    """diffusers' UNet behind transformers' text encoders, with PEFT adapters that begin as ours do."""

    def __init__(self, unet: TwinUNet, clip: TwinClip, ours: Factors) -> None:
        self.family, self.clip = unet.family, clip
        self.unet = copy.deepcopy(unet.reference)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION))
        self.factors = peft_factors(
            self.unet, ours, lambda name: "diffusion_model." + unet.names[f"{name}.weight"].removesuffix(".weight")
        )
        self.texts: dict[str, nn.Module] = {}
        for name, part in PARTS[self.family].items():
            text = self.texts[name] = copy.deepcopy(clip.references[name])
            inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TEXT_TARGETS), text)
            self.factors |= peft_factors(text, ours, lambda name, part=part: _host_path(part, name))
        of_text = [f for path, pair in self.factors.items() for f in pair if not path.startswith("diffusion")]
        of_unet = [f for path, pair in self.factors.items() for f in pair if path.startswith("diffusion")]
        self.parameters = [*of_unet, *of_text]
        self.optimiser = torch.optim.AdamW(
            [{"params": of_unet}, {"params": of_text, "lr": RATE * SHARE}], lr=RATE, betas=(0.9, 0.99), weight_decay=0.0
        )

    def encode(self, caption: str) -> tuple[Tensor, Tensor]:
        """Every chunk on its own, one behind the other; pooled is that of the first."""
        tokens = {f"clip_{name}": chunks for name, chunks in self.clip.clip.tokenize(caption).items()}
        hidden: list[Tensor] = []
        pooled = torch.zeros(())
        for name, text in self.texts.items():
            chunks = [[token for token, _ in chunk] for chunk in tokens[PARTS[self.family][name]]]
            out = text(torch.tensor(chunks), output_hidden_states=True)
            layer = out.last_hidden_state if self.family == "SD1.5" else out.hidden_states[-2]
            hidden.append(layer.reshape(1, -1, layer.shape[-1]))
            pooled = out.pooler_output[:1] if self.family == "SD1.5" else out[0][:1]
        return _as_said(torch.cat(hidden, dim=-1)), _as_said(pooled)

    def loss(self, samples: Sequence[TrainSample], sigmas: Tensor, noise: Tensor) -> Tensor:
        table = noise_levels()
        total = torch.zeros(())
        for sample, sigma, own in zip(samples, sigmas, noise, strict=True):
            text, pooled = self.encode(sample.caption)
            height, width = sample.size
            sigma = sigma.double()
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float64)
            clean = (sample.latent * LATENT_SCALES[self.family]).double()
            noisy = (clean + sigma * own) / (1 + sigma**2).sqrt()
            output = self.unet(
                noisy[None], (table - sigma.double()).abs().argmin(), text,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids} if self.family == "SDXL" else None,
            ).sample[0]  # fmt: skip
            snr = sigma**-2
            total = total + snr.clamp(max=GAMMA) / snr * (output - own).square().mean()
        return total / len(samples)

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


def _as_said(text: Tensor) -> Tensor:
    """The host hands over what its text encoders say in float32."""
    return text.float().double()


def _host_path(part: str, name: str) -> str:
    return f"{part}.transformer.{name if name.startswith('text_model.') else 'text_model.' + name}"


def _settings(batch: int) -> TrainSettings:
    return TrainSettings(
        steps=STEPS, batch=batch, rank=RANK, alpha=ALPHA, learning_rate=RATE, text_encoder_lr=SHARE,
        schedule="constant", warmup=0.0, init="kaiming", checkpointing="off", validate_every=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pairs(host: object) -> dict[str, tuple[TwinUNet, TwinClip]]:
    """Family -> a UNet that reads what its text encoders say, and these."""
    found: dict[str, tuple[TwinUNet, TwinClip]] = {}
    for family in ("SD1.5", "SDXL"):
        clip = twin_clip(family)
        text, pooled = clip.base
        unet = twin_unet(family, context=text.shape[-1], pooled=pooled.shape[-1])
        if family == "SDXL":  # the host's class embeds picture sizes in the full width
            unet.patcher.model.embedder = Timestep(TIME_WIDTH)
        found[family] = unet, clip
    return found


@pytest.mark.parametrize("case", SETS)
@pytest.mark.parametrize("family", ["SD1.5", "SDXL"])
def test_loss_gradients_and_factors_of_text_encoders_are_those_of_peft(
    pairs: dict[str, tuple[TwinUNet, TwinClip]],
    family: str,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    float64: None,
) -> None:
    (unet, clip), (samples, batch) = pairs[family], SETS[case]
    unet, clip = unet_in_float64(unet), clip_in_float64(clip)
    names = model_names(unet.patcher, clip.clip)
    denoiser = HostDenoiser(unet.patcher, names, keeps=False)
    text = HostTextEncoder(clip.clip, unet.patcher)
    trainer = Watched(denoiser, samples, _settings(batch), text=text)
    assert {path.split(".")[0] for path in trainer.factors()} == {"diffusion_model", *PARTS[family].values()}
    reference = DiffusersPipeline(unet, clip, trainer.factors())
    moved = assert_trains_alike(trainer, denoiser, reference, samples, GRADIENT_TOLERANCES, monkeypatch)
    of_text = [float(up.abs().max()) for path, (_, up) in moved.items() if not path.startswith("diffusion")]
    assert max(of_text) > RATE * SHARE * STEPS / 4


@pytest.mark.parametrize("family", ["SD1.5", "SDXL"])
def test_the_trained_file_acts_alike_in_every_dialect_in_the_hosts_loader_and_in_diffusers(
    pairs: dict[str, tuple[TwinUNet, TwinClip]], family: str, loras_dir: Path
) -> None:
    (unet, clip), samples = pairs[family], SETS["one picture"][0]
    names = model_names(unet.patcher, clip.clip)
    text = HostTextEncoder(clip.clip, unet.patcher)
    settings = replace(_settings(1), steps=3, learning_rate=0.05, alpha=None, text_encoder_lr=1.0)
    trainer = Trainer(HostDenoiser(unet.patcher, names, keeps=False), samples, settings, text=text)
    list(trainer.run())
    lora = trainer.adapter("trained")
    write_safetensors(loras_dir / "kohya.safetensors", lora.content.tensors, lora.header.metadata)
    shapes = {f"{path}.weight": target.shape for path, target in names.layout.targets.items()}
    for dialect in SPELLINGS.keys() - {"kohya"}:
        convert(lora, dialect, list_targets(shapes)).content.write(loras_dir / f"{dialect}.safetensors")

    _, applied = apply_to_both(unet.patcher, clip.clip, "kohya.safetensors")
    wanted = clip.host_output(applied)
    assert min(largest_difference(*pair) for pair in zip(wanted, clip.base, strict=True)) > 1e-2
    encodings = {}
    for dialect in SPELLINGS:
        _, other = apply_to_both(unet.patcher, clip.clip, f"{dialect}.safetensors")
        encodings[dialect] = clip.host_output(other)
    tensors = load_torch_file(str(loras_dir / "kohya.safetensors"))
    encodings["host"] = clip.host_output(load_lora_for_models(unet.patcher, clip.clip, tensors, 1.0, 1.0)[1])
    encodings["diffusers itself"] = _by_diffusers(clip, loras_dir / "diffusers.safetensors")
    for reader, found in encodings.items():
        for one, other in zip(found, wanted, strict=True):
            assert largest_difference(one, other) <= TOLERANCE, reader


def _by_diffusers(clip: TwinClip, path: Path) -> tuple[Tensor, Tensor]:
    found = StableDiffusionLoraLoaderMixin.lora_state_dict(
        path.parent, weight_name=path.name, return_lora_metadata=True
    )
    state, metadata = found[0], found[-1]
    try:
        for name, model in clip.references.items():
            StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder(
                state, None, model, prefix=name, metadata=metadata, adapter_name="one"
            )
        return clip.reference_output()
    finally:
        for model in clip.references.values():
            unload(model)
