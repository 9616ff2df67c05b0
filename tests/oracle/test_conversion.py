"""What we convert loads in diffusers and in PEFT themselves, and computes what the adapter computed before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from lora_pack.lora_core import ModelLayout, NameTable, list_targets, load_lora, open_lora
from lora_pack.lora_core.file_work.writing.conversion import convert
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .adapters import Trained, injected, lora_layers, set_strengths, unload
from .comparison import TOLERANCE, largest_difference
from .spellings import comfy_native, diffusers_pipeline, kohya_ldm_names, peft_directory
from .tiny_clips import TwinClip
from .tiny_unets import TwinUNet

SOURCES = {
    "kohya": (kohya_ldm_names, "patterns"),
    "comfy": (comfy_native, "every layer"),
    "diffusers": (diffusers_pipeline, "rank-stabilised patterns"),
    "peft": (peft_directory, "rank-stabilised patterns"),
}
WIDTH = 48
FLUX_LAYERS = {
    "double_blocks.0.img_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.txt_attn.proj": (WIDTH, WIDTH),
    "double_blocks.0.img_mlp.0": (4 * WIDTH, WIDTH),
    "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    "final_layer.linear": (4, WIDTH),
}


def layout_of(twin: TwinUNet) -> ModelLayout:
    weights = twin.host_weights()
    return list_targets({f"diffusion_model.{name}": tuple(tensor.shape) for name, tensor in weights.items()})


def written(twin: TwinUNet, trained: Trained, folder: Path, source: str, to: str) -> tuple[Path, Tensor]:
    """(converted file, PEFT's output with the adapter that it was made from)."""
    write, recipe = SOURCES[source]
    adapter, expected = trained(twin.family, recipe)
    (folder / "source").mkdir()
    path = folder / "source" / "adapter_model.safetensors"
    write(path, twin, adapter)
    out = folder / "adapter_model.safetensors"
    convert(open_lora(path), to, layout_of(twin)).content.write(out)
    return out, expected


def by_diffusers(twin: TwinUNet, path: Path) -> Tensor:
    twin.reference.load_lora_adapter(path.parent, weight_name=path.name, prefix="unet")
    try:
        return twin.reference_output()
    finally:
        twin.reference.unload_lora()


def by_peft(twin: TwinUNet, path: Path) -> Tensor:
    model = PeftModel.from_pretrained(twin.reference, path.parent)
    try:
        return twin.reference_output()
    finally:
        model.unload()


READERS: dict[str, Callable[[TwinUNet, Path], Tensor]] = {"diffusers": by_diffusers, "peft": by_peft}


@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("family", ["SD1.5", "SDXL"])
def test_a_converted_file_computes_the_same_in_the_other_library(
    twins: dict[str, TwinUNet], trained: Trained, tmp_path: Path, family: str, source: str, to: str
):
    path, expected = written(twins[family], trained, tmp_path, source, to)
    assert largest_difference(READERS[to](twins[family], path), expected) <= TOLERANCE
    assert largest_difference(expected, twins[family].reference_output()) > 0.1


@pytest.mark.parametrize("family", ["SD1.5", "SDXL"])
def test_converted_text_encoders_compute_the_same_in_diffusers(clips: dict[str, TwinClip], tmp_path: Path, family: str):
    twin = clips[family]
    shapes = {name: tuple(tensor.shape) for name, tensor in twin.clip.cond_stage_model.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    expected: dict[str, tuple[Tensor, ...]] = {}
    for number, (name, model) in enumerate(twin.references.items()):
        prefix = "lora_te_" if family == "SD1.5" else f"lora_te{number + 1}_"
        with injected(model, {"one": "text patterns"}) as (adapter,):
            set_strengths(model, {"one": 1.0})
            expected[name] = outputs(model)
            for module, alpha in adapter.alphas.items():
                layer = prefix + f"text_model.{module.removeprefix('text_model.')}".replace(".", "_")
                tensors[f"{layer}.lora_down.weight"] = adapter.tensors[f"{module}.lora_A.weight"]
                tensors[f"{layer}.lora_up.weight"] = adapter.tensors[f"{module}.lora_B.weight"]
                tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    convert(open_lora(tmp_path / "a.safetensors"), "diffusers", list_targets(shapes)).content.write(out)
    state, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        tmp_path, weight_name=out.name, return_lora_metadata=True
    )[::2]
    for name, model in twin.references.items():
        before = outputs(model)
        StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder(
            state, None, model, prefix=name, metadata=metadata, adapter_name="one"
        )
        try:
            for found, wanted, base in zip(outputs(model), expected[name], before, strict=True):
                assert largest_difference(found, wanted) <= TOLERANCE
                assert largest_difference(base, wanted) > 0.01
        finally:
            unload(model)


def outputs(model: torch.nn.Module) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (model(torch.arange(77)[None]).last_hidden_state,)


def test_a_fused_flux_file_changes_the_split_layers_of_diffusers_as_it_changes_the_fused_ones(tmp_path: Path):
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for layer, (out, inputs) in FLUX_LAYERS.items():
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(3, inputs, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 3, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "a.safetensors")
    layout = list_targets({f"diffusion_model.{layer}.weight": shape for layer, shape in FLUX_LAYERS.items()})
    convert(open_lora(tmp_path / "a.safetensors"), "diffusers", layout).content.write(tmp_path / "out.safetensors")
    lora = load_lora(open_lora(tmp_path / "a.safetensors"), layout, NameTable(layout))
    ours = {p.place.path.removeprefix("diffusion_model."): p.adapter.delta_of(torch.zeros(1)) for p in lora.adapters}

    model = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=3, joint_attention_dim=32,
        pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), in_channels=4,
    )  # fmt: skip
    model.load_lora_adapter(tmp_path, weight_name="out.safetensors", prefix="transformer", adapter_name="one")
    theirs = {name: layer.get_delta_weight("one") for name, layer in lora_layers(model, "one").items()}
    block, single = "transformer_blocks.0", "single_transformer_blocks.0"
    expected = {
        **dict(zip(
            (f"{block}.attn.to_{name}" for name in "qkv"),
            ours["double_blocks.0.img_attn.qkv"].split(WIDTH),
            strict=True,
        )),
        f"{block}.attn.to_add_out": ours["double_blocks.0.txt_attn.proj"],
        f"{block}.ff.net.0.proj": ours["double_blocks.0.img_mlp.0"],
        **dict(zip(
            (*(f"{single}.attn.to_{name}" for name in "qkv"), f"{single}.proj_mlp"),
            ours["single_blocks.0.linear1"].split([WIDTH, WIDTH, WIDTH, 4 * WIDTH]),
            strict=True,
        )),
        f"{single}.proj_out": ours["single_blocks.0.linear2"],
        "norm_out.linear": torch.cat(ours["final_layer.adaLN_modulation.1"].split(WIDTH)[::-1]),
        "proj_out": ours["final_layer.linear"],
    }  # fmt: skip
    assert theirs.keys() == expected.keys()
    for name, delta in expected.items():
        assert torch.allclose(theirs[name], delta, atol=1e-5), name


def test_what_diffusers_reads_is_what_we_wrote(twins: dict[str, TwinUNet], trained: Trained, tmp_path: Path):
    """No key of ours is unknown to diffusers, which would only warn."""
    path, _ = written(twins["SD1.5"], trained, tmp_path, "kohya", "diffusers")
    with safe_open(path, "pt") as file:
        keys = {key.removeprefix("unet.") for key in file.keys()}  # noqa: SIM118  no mapping
    twins["SD1.5"].reference.load_lora_adapter(path.parent, weight_name=path.name, prefix="unet", adapter_name="one")
    try:
        layers = lora_layers(twins["SD1.5"].reference, "one")
        assert {f"{name}.lora_{side}.weight" for name in layers for side in "AB"} == keys
    finally:
        twins["SD1.5"].reference.unload_lora()
