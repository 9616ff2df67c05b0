"""Layers to adapt, as a library and as we see them, and the comparison of both at every strength."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lora_pack.lora_core import LoadedLora, NameTable, list_targets, load_lora, open_lora
from lora_pack.lora_core.adapters import Adapter
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 2.0)
OUT, IN, PICTURE = 16, 24, 7
# Largest difference of outputs, per unit of the largest output and of strength: float32. The worst found is 1.5e-6.
TOLERANCE = 1e-5

KINDS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(IN, OUT),
    "conv 1x1": lambda: nn.Conv2d(IN, OUT, 1),
    "conv 3x3": lambda: nn.Conv2d(IN, OUT, 3, stride=2, padding=1),
}


def make_layer(kind: str) -> nn.Module:
    """A layer with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind]().requires_grad_(False)


def make_input(layer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(2, layer.in_channels, PICTURE, PICTURE, generator=generator)
    return torch.randn(2, 3, layer.weight.shape[1], generator=generator)


def randomise_(parameters: Mapping[str, Tensor], spread: float = 0.5, centre: float = 0.0) -> None:
    """Numbers as of a training, from a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters.values():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + centre)


class TorchLayer:
    """A torch layer as the FrozenLayer that branches act beside. Counts the reads of its weight."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.reads = 0

    def weight(self) -> Tensor:
        self.reads += 1
        return self._layer.weight.detach().float().clone()

    def linear(self, x: Tensor) -> Tensor:
        return self.apply(self._layer.weight.detach().to(x.dtype), x)

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        layer = self._layer
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return F.linear(x, weight)


def load(tensors: Mapping[str, Tensor], layer: nn.Module, folder: Path, metadata: dict[str, str] | None = None):
    """A file of these tensors made ready for a model whose only layer is "layer"; every key must fit."""
    lora = load_some(tensors, layer, folder, metadata)
    lora.report.require_any().require_complete()
    return lora


def load_some(
    tensors: Mapping[str, Tensor], layer: nn.Module, folder: Path, metadata: dict[str, str] | None = None
) -> LoadedLora:
    """As load, without asking for every key."""
    return load_model(tensors, nn.ModuleDict({"layer": layer}), folder, metadata)


def load_model(
    tensors: Mapping[str, Tensor], model: nn.Module, folder: Path, metadata: dict[str, str] | None = None
) -> LoadedLora:
    """As load_some, for a model of several layers."""
    path = folder / "adapter_model.safetensors"
    kept = {key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}
    save_file(kept, path, metadata=metadata)
    layout = list_targets({f"diffusion_model.{name}": tuple(p.shape) for name, p in model.named_parameters()})
    return load_lora(open_lora(path), layout, NameTable(layout))


def reason(tensors: Mapping[str, Tensor], layer: nn.Module, folder: Path) -> str:
    """The one reason for which a file's keys for the layer are not applied."""
    (told,) = {note.reason for note in load_some(tensors, layer, folder).report.unmatched}
    return told


def merged(adapter: Adapter, weight: Tensor, strength: float) -> Tensor:
    changed = weight.detach().clone()
    adapter.add_delta_(changed, strength)
    return changed


def beside(adapter: Adapter, layer: nn.Module, x: Tensor) -> Tensor:
    """The branch of an adapter, which must be the same prepared and not, and read no weight when prepared."""
    frozen = TorchLayer(layer)
    plain = frozen.linear(x)
    branch = adapter.branch(x, plain, frozen)
    reads = frozen.reads
    prepared = adapter.prepared(frozen.weight()).branch(x, plain, frozen)
    assert frozen.reads == reads + 1  # the one for `prepared`
    assert branch.shape == prepared.shape == plain.shape
    torch.testing.assert_close(prepared, branch, atol=1e-5, rtol=1e-5)
    return branch


def check(lora: LoadedLora, layer: nn.Module, trained: Callable[[Tensor], Tensor]) -> None:
    """The trained layer's output is ours at strength 1, merged and beside; other strengths lie on the line through it.

    Args:
        lora: loaded for `layer`.
        layer: without the adapter.
        trained: the library's layer with its adapter, at the library's strength 1.
    """
    x = make_input(layer)
    plain, expected = layer(x).double(), trained(x).detach().double()
    size = max(expected.abs().max().item(), 1.0)
    assert (expected - plain).abs().max() > 1e-2  # the adapter does something
    adapters = {placed.parameter: placed.adapter for placed in lora.adapters}
    bias = layer.bias.detach()
    for strength in STRENGTHS:
        line = plain + strength * (expected - plain)
        weight = merged(adapters["weight"], layer.weight, strength)
        bias_now = merged(adapters["bias"], bias, strength) if "bias" in adapters else bias
        channels = bias_now.reshape(-1, *[1] * (x.dim() - 2 if isinstance(layer, nn.Conv2d) else 0))
        ours = TorchLayer(layer).apply(weight, x) + channels
        assert (ours.double() - line).abs().max() < TOLERANCE * size * max(abs(strength), 1)
        branch = layer(x) - bias.reshape(channels.shape) + channels + strength * beside(adapters["weight"], layer, x)
        assert (branch.double() - line).abs().max() < TOLERANCE * size * max(abs(strength), 1)
