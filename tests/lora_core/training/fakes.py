"""A tiny denoiser of plain torch, pictures for it, and trainers of both."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lora_pack.lora_core import list_targets
from lora_pack.lora_core.training import Memory, Trainer, TrainSettings
from lora_pack.lora_core.training.dataset import TrainSample
from lora_pack.lora_core.training.objective import OBJECTIVES, Noising
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH = 8
SETTINGS: dict[str, Any] = {"steps": 12, "batch": 3, "rank": 4, "learning_rate": 5e-3, "checkpointing": "off"}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(WIDTH, WIDTH)
        self.ff = nn.Linear(WIDTH, WIDTH, bias=False)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.recomputes = False

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + torch.tanh(self.attn(tokens) + text[:, None]) + self.ff(tokens)
        return x + torch.tanh(self.conv(tokens.transpose(1, 2).reshape(x.shape)))


class FakeDenoiser:
    """Implements Denoiser without a host; counts how often it is opened and closed."""

    device = torch.device("cpu")
    fingerprint: str | None = "a fake model"

    def __init__(
        self, objective: str = "eps", dtype: torch.dtype = torch.float32, text: "FakeTextEncoder | None" = None
    ) -> None:
        self.noising, self.dtype = Noising(OBJECTIVES[objective]), dtype
        self.is_flow = objective == "flow"
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.model = nn.Module()
            self.model.diffusion_model = nn.Module()
            self.model.diffusion_model.blocks = nn.ModuleList([Block(), Block()])
            self.model.diffusion_model.time_in = nn.Linear(1, WIDTH)
        self.model.to(dtype).requires_grad_(False)
        weights = self.model.state_dict() | (text.model.state_dict() if text else {})
        self.layout = list_targets({name: tuple(tensor.shape) for name, tensor in weights.items()})
        self.opens = self.closes = self.forwards = 0
        self.free: int | None = None
        self.poison_at = -1  # the forward that says nonsense
        self.loudness = 1.0  # what the gradient of the output is multiplied with, on its way into the model
        self.asked: list[torch.Size] = []  # shapes of all latents

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.opens += 1
        try:
            yield
        finally:
            self.closes += 1

    def scaled(self, latent: Tensor) -> Tensor:
        return latent * 0.5

    def sigmas_at(self, positions: Tensor) -> Tensor:
        return (positions if self.is_flow else 0.05 * 200**positions).float()

    def conditions(self, samples: Sequence[TrainSample], conditionings: Sequence[Any], shape: torch.Size) -> Tensor:
        return torch.stack(list(conditionings)).to(self.dtype)

    def predict(self, noisy: Tensor, sigmas: Tensor, conditions: Tensor) -> Tensor:
        self.forwards += 1
        self.asked.append(noisy.shape)
        inner: Any = self.model.diffusion_model
        scale = (1 + sigmas.square()).rsqrt().reshape(-1, 1, 1, 1) if not self.is_flow else 1.0
        x = (noisy * scale).to(self.dtype)
        time = inner.time_in(sigmas.to(self.dtype)[:, None].log1p())
        for block in inner.blocks:
            if block.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, x, conditions + time, use_reentrant=False)
            else:
                x = block(x, conditions + time)
        if x.requires_grad and self.loudness != 1.0:
            x.register_hook(lambda gradient: gradient * self.loudness)
        return x.float() * (float("nan") if self.forwards == self.poison_at else 1.0)

    def differentiable(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        blocks: Any = self.model.diffusion_model.blocks
        for block in blocks:
            block.recomputes = True
        try:
            yield
        finally:
            for block in blocks:
                block.recomputes = False

    def memory(self) -> Memory | None:
        return None if self.free is None else Memory(self.free, self.free)


class TextLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q_proj", "out_proj")})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.self_attn["out_proj"](torch.tanh(self.self_attn["q_proj"](x)))


class FakeTextEncoder:
    """Implements TextEncoder without a host: says a number of its own for every letter, through two layers."""

    fingerprint: str | None = "a fake text encoder"

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.model = nn.ModuleDict({"clip_l": nn.Module()})
            self.model["clip_l"].transformer = nn.Module()
            self.model["clip_l"].transformer.layers = nn.ModuleList([TextLayer(), TextLayer()])
            self._letters = torch.randn(128, WIDTH)
        self.model.requires_grad_(False)
        self.opens = self.closes = 0
        self.read: list[str] = []

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.opens += 1
        try:
            yield
        finally:
            self.closes += 1

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        self.read += captions
        letters = [self._letters[[ord(letter) for letter in caption]].sum(dim=0) for caption in captions]
        x = torch.stack(letters)
        layers: Any = self.model["clip_l"].transformer.layers
        for layer in layers:
            x = layer(x)
        return list(x)


def pictures(*shapes: tuple[int, int], repeats: int = 1, keep: bool = False) -> list[TrainSample]:
    rng = torch.Generator().manual_seed(12 if keep else 11)
    return [
        TrainSample(
            latent=torch.randn(WIDTH, *shape, generator=rng),
            conditioning=torch.randn(WIDTH, generator=rng),
            caption=f"a picture, number {number}",
            name=f"{number}.png",
            size=(shape[0] * 8, shape[1] * 8),
            repeats=repeats,
            keep=keep,
        )
        for number, shape in enumerate(shapes)
    ]


def trainer_of(
    denoiser: FakeDenoiser | None = None,
    samples: Sequence[TrainSample] | None = None,
    state: Path | None = None,
    text: FakeTextEncoder | None = None,
    **settings: Any,
) -> Trainer:
    data = pictures((4, 4), (4, 4), (4, 6)) if samples is None else samples
    chosen = TrainSettings(**{**SETTINGS, **settings})
    model = denoiser or FakeDenoiser(text=text)
    return Trainer(model, data, chosen, state=state, empty=None if text else torch.zeros(WIDTH), text=text)


def factors(trainer: Trainer) -> Tensor:
    return trainer.state().factors


def moments(trainer: Trainer) -> dict[str, Tensor]:
    return dict(trainer.state().optimiser)


def files(trainer: Trainer, folder: Path, name: str) -> bytes:
    """The bytes of the trained file."""
    from lora_pack.lora_core.files.safetensors_writer import write_safetensors

    lora = trainer.adapter("trained")
    write_safetensors(folder / name, lora.content.tensors, lora.header.metadata)
    return (folder / name).read_bytes()


def long_trainer(state: Path | None, kind: str) -> Trainer:
    """What killed_run.py trains; kind: "model", or "model and text"."""
    text = FakeTextEncoder() if kind == "model and text" else None
    return trainer_of(state=state, text=text, steps=40, batch=2, save_every=3, validate_every=30)
