"""A tiny UNet of the host's own class, and adapter files for it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lora_pack.devtools.hosts import Host
from safetensors.torch import save_file
from torch import Tensor

CONFIG: Mapping[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "num_heads": 4, "context_dim": 768, "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None, "use_temporal_attention": False,
}  # fmt: skip
RANK = 4


@pytest.fixture(scope="session")
def model(host: Host) -> Any:
    """A ModelPatcher on an SD1.5-like UNet with random weights."""
    import comfy.supported_models

    class Tiny(comfy.supported_models.SD15):
        unet_config: ClassVar[dict[str, Any]] = {}
        unet_extra_config: ClassVar[dict[str, Any]] = {}

    settings = Tiny(dict(CONFIG))
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "", device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in base.diffusion_model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return patcher_of(base)


def patcher_of(base: Any) -> Any:
    """A model for the device that the host computes on, in the class of patcher that its own loaders take."""
    import comfy.model_management
    import comfy.model_patcher

    of_host = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    device = comfy.model_management.get_torch_device()
    return of_host(base, load_device=device, offload_device=torch.device("cpu"))


def sampled(patcher: Any, steps: int) -> Tensor:
    """A latent [1, 4, 16, 16] sampled with the tiny model as the host's sampler node does it."""
    import comfy.sample

    generator = torch.Generator().manual_seed(4)
    latent = torch.zeros(1, 4, 16, 16)
    noise = torch.randn(latent.shape, generator=generator)
    conds = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    return comfy.sample.sample(patcher, noise, steps, 2.0, "euler", "simple", *conds, latent, disable_pbar=True, seed=1)


@pytest.fixture
def run(model: Any) -> Callable[[Any], Tensor]:
    """One step of a model on fixed inputs."""
    import comfy.model_management

    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 7, 768, generator=generator)

    def step(patcher: Any) -> Tensor:
        comfy.model_management.load_models_gpu([patcher])
        return one_step(patcher, latent, text)

    return step


def one_step(patcher: Any, latent: Tensor, text: Tensor) -> Tensor:
    """A call of a model that is loaded already, on the device where it is; the answer on the CPU."""
    device = patcher.load_device
    with torch.no_grad():
        times = torch.tensor([5.0, 5.0], device=device)
        return patcher.model.apply_model(latent.to(device), times, c_crossattn=text.to(device)).cpu()


@pytest.fixture
def adapter_tensors(model: Any) -> dict[str, Tensor]:
    """kohya's keys for every attention projection, with an effect that can be seen."""
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        if ".attn" in name and name.endswith(".weight"):
            layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, weight.shape[1], generator=generator) * 0.3
            tensors[f"{layer}.lora_up.weight"] = torch.randn(weight.shape[0], RANK, generator=generator) * 0.3
            tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    return tensors


@pytest.fixture
def style(loras_dir: Path, adapter_tensors: dict[str, Tensor]) -> str:
    """The name of a good adapter file."""
    save_file(adapter_tensors, loras_dir / "style.safetensors")
    return "style.safetensors"


@pytest.fixture
def other(loras_dir: Path, adapter_tensors: dict[str, Tensor]) -> str:
    """A second file: of another rank and alpha, with other numbers."""
    generator = torch.Generator().manual_seed(8)
    changed: dict[str, Tensor] = {}
    for key, tensor in adapter_tensors.items():
        if key.endswith("down.weight"):
            changed[key] = torch.randn(2, tensor.shape[1], generator=generator) * 0.3
        elif key.endswith("up.weight"):
            changed[key] = torch.randn(tensor.shape[0], 2, generator=generator) * 0.3
        else:
            changed[key] = torch.tensor(3.0)
    save_file(changed, loras_dir / "other.safetensors")
    return "other.safetensors"


@pytest.fixture
def checkpoints(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The host's only folder of diffusion models, with the tiny model as "base" and a changed one as "tuned"."""
    import folder_paths

    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    weights = {f"model.{name}": t.contiguous() for name, t in model.model.state_dict().items() if "diffusion" in name}
    save_file(weights, folder / "base.safetensors")
    generator = torch.Generator().manual_seed(4)
    tuned = {
        name: t + 0.05 * torch.randn(t.shape, generator=generator) if ".attn" in name and name.endswith("weight") else t
        for name, t in weights.items()
    }
    save_file(tuned, folder / "tuned.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(folder)], {".safetensors"}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    yield folder


@pytest.fixture(autouse=True)
def empty_cache(host: Host) -> None:
    """No adapter is remembered from another test; what the pack does at its start is done."""
    from lora_pack.nodes.comfy_bridge import let_go_on_unload
    from lora_pack.nodes.host_files.loading import CACHE

    let_go_on_unload(CACHE.clear)
    CACHE.clear()


@pytest.fixture(scope="module")
def demo(host: Host) -> tuple[Any, Any, Any]:
    """The demo's model, CLIP and VAE, one each for a module of tests."""
    from lora_pack.demo.custom_nodes.lora_loom_demo.demo_model import load_demo_model

    return load_demo_model(Path(__file__).parents[2] / "demo")


@pytest.fixture(scope="module")
def encoded(demo: tuple[Any, Any, Any]) -> Callable[[int, int], Any]:
    """A training set of (count) pictures of (side) pixels, as Training Pictures makes it of the demo's."""
    from lora_pack.demo.pictures import draw, random_pictures
    from lora_pack.nodes.train.training_pictures import Dataset

    _, clip, vae = demo

    def made(count: int, side: int) -> Any:
        drawn = random_pictures(count, torch.Generator().manual_seed(5))
        captions = "\n".join(picture.caption for picture in drawn)
        with torch.inference_mode():
            return Dataset.execute(
                [draw(drawn, side).movedim(1, -1)], [captions], [vae], [clip], ["ohwx"], [side], [8], [1], ["error"],
                ["memory"],
            ).args[0]  # fmt: skip

    return made
