"""The ways of putting adapters on a model that benchmarks/apply.py holds against each other."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._apply_models import LAYER, Factors
from ._device import Call

MERGED = "ComfyUI LoraLoader (merged)"
BYPASS = "ComfyUI bypass"
HOOKS = "one hook per adapter"
PLAIN = "the layer alone"
PLAIN_UNET = "the UNet alone, as after a merge"
PEFT = "PEFT"
STRENGTH = 0.8


class Loader(Protocol):
    """A kind of node that puts one file onto a model."""

    def apply(self, model: Any, place: int, name: str, strength: float) -> Any:
        """The changed clone; `place` is the node's number in its chain."""
        ...


class OwnLoader:
    """Our node "Apply LoRA" in one of its modes."""

    def __init__(self, mode: str) -> None:
        self._inputs = {"mode": mode} if _has_modes() else {}

    def apply(self, model: Any, place: int, name: str, strength: float) -> Any:
        """See Loader."""
        from lora_pack.nodes.apply.apply_lora import ApplyLora

        return ApplyLora.execute(model, name, strength, strength, "error", None, **self._inputs).args[0]


class HostLoader:
    """The host's own loader; each node of a chain keeps its file, as in a running host."""

    def __init__(self) -> None:
        self._nodes: dict[int, Any] = {}

    def apply(self, model: Any, place: int, name: str, strength: float) -> Any:
        """See Loader."""
        import nodes

        node = self._nodes.setdefault(place, nodes.LoraLoader())
        return node.load_lora(model, None, name, strength, 0.0)[0]


class BypassLoader:
    """The host's loader that leaves the weights as they are (ComfyUI >= 0.29). A second one replaces the first."""

    def apply(self, model: Any, place: int, name: str, strength: float) -> Any:
        """See Loader."""
        import comfy.sd
        import comfy.utils
        import folder_paths

        file = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", name), safe_load=True)
        return comfy.sd.load_bypass_lora_for_models(model, None, file, strength, 0.0)[0]


def own_modes(*, with_auto: bool = False) -> Sequence[str]:
    """The modes of our nodes; those from before the modes always merge."""
    if not _has_modes():
        return ("merge",)
    return ("auto", "branch", "merge") if with_auto else ("branch", "merge")


def _has_modes() -> bool:
    from lora_pack.nodes.apply.apply_lora import ApplyLora

    return "mode" in inspect.signature(ApplyLora.execute).parameters


def has_bypass() -> bool:
    """Whether this host can leave the weights as they are."""
    import comfy.sd

    return hasattr(comfy.sd, "load_bypass_lora_for_models")


def own_name(mode: str) -> str:
    """How our side is called in a mode."""
    return f"LoRA Loom ({mode})"


def loaders(count: int, *, with_auto: bool = False) -> dict[str, Loader]:
    """Side -> loader, of those that can put `count` files onto one model."""
    found: dict[str, Loader] = {own_name(mode): OwnLoader(mode) for mode in own_modes(with_auto=with_auto)}
    found[MERGED] = HostLoader()
    if has_bypass() and count == 1:
        found[BYPASS] = BypassLoader()
    return found


def chain(loader: Loader, model: Any, names: Sequence[str], strength: float = STRENGTH) -> Any:
    """The model behind a chain of nodes."""
    for place, name in enumerate(names):
        model = loader.apply(model, place, name, strength)
    return model


def load(patcher: Any) -> Any:
    """What the host does before the first step."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    return patcher


def unload() -> None:
    """Take every model from the device, its weights as they were."""
    import comfy.model_management

    comfy.model_management.unload_all_models()


def forget_files() -> None:
    """Our side starts with nothing in memory: no file, and nothing that it keeps for a model. Unload before."""
    import lora_pack.nodes.comfy_bridge as bridge
    from lora_pack.nodes.host_files.loading import CACHE

    CACHE.clear()
    bridge.forget_names()
    bridge.forget_weaves()


@contextmanager
def with_loader(loader: Loader, model: Any, names: Sequence[str], call: Call) -> Iterator[Call]:
    """The call on a model behind a chain of nodes."""
    patched = load(chain(loader, model, names))  # the host lets go of a model that nobody holds
    yield call
    del patched


@contextmanager
def with_hooks(model: Any, files: Sequence[Mapping[str, Factors]], call: Call) -> Iterator[Call]:
    """The call on a model whose layers have one forward hook per adapter: y + up(down(x)) * strength."""
    plain = load(model.clone())
    handles = [
        module.register_forward_hook(_hook(module, file[path], plain.load_device))
        for file in files
        for path in file
        for module in [plain.model.get_submodule(path)]
    ]
    try:
        yield call
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, factors: Factors, device: torch.device) -> Any:
    weight: Any = module.weight
    down, up = (factor.to(device, weight.dtype) for factor in (factors.down, factors.up))
    if down.dim() == 2:
        return lambda _, inputs, y: y + functional.linear(functional.linear(inputs[0], down), up) * STRENGTH
    pointwise = up.reshape(*up.shape, *[1] * (down.dim() - 2))
    convolution: Any = module

    def add(_: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        hidden = functional.conv2d(inputs[0], down, stride=convolution.stride, padding=convolution.padding)
        return y + functional.conv2d(hidden, pointwise) * STRENGTH

    return add


def peft_layers(
    layers: Mapping[str, nn.Module], ranks: Sequence[int], dtype: torch.dtype, device: torch.device
) -> dict[str, nn.Module]:
    """Plain layers by any name, each around itself with PEFT's adapters of these ranks, all active."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    parent = nn.Module()
    places = {name: f"{LAYER}{number}" for number, name in enumerate(layers)}
    for name, layer in layers.items():
        parent.add_module(places[name], layer)
    adapters = [f"adapter_{number}" for number in range(len(ranks))]
    for adapter, rank in zip(adapters, ranks, strict=True):
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(places.values()), init_lora_weights=False)
        inject_adapter_in_model(config, parent, adapter)
    wrapped = {name: parent.get_submodule(place) for name, place in places.items()}
    for layer in wrapped.values():
        if not isinstance(layer, LoraLayer):
            raise TypeError(f"PEFT left {type(layer).__name__} as it was")
        layer.set_adapter(adapters)
    parent.eval().requires_grad_(False).to(device, dtype)
    return wrapped


@contextmanager
def with_peft(model: Any, wrapped: Mapping[str, nn.Module], call: Call) -> Iterator[Call]:
    """The call on a model in which PEFT's layers stand in the places of its own."""
    plain = load(model.clone())
    own = {path: plain.model.get_submodule(path) for path in wrapped}
    try:
        _put(plain.model, wrapped)
        yield call
    finally:
        _put(plain.model, own)


def _put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer)
