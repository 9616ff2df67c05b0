"""Names of transformer families mean the rows that diffusers' own converters give them, told by numbered rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from diffusers.loaders import lora_conversion_utils, single_file_utils
from lora_pack.lora_core.names.path_names import names_of_part
from lora_pack.lora_core.names.path_names.place import Name
from torch import Tensor

from ..lora_core.adapter_files import read_list

Spelling = Callable[[str], str]


def same(path: str) -> str:
    return path


def norms_with_scale(path: str) -> str:
    """Black Forest Labs' checkpoints call the weight of a norm its scale."""
    is_norm = "_norm.weight" in path or ".norms." in path
    return path.replace(".weight", ".scale") if is_norm else path


TENCENT = (  # ComfyUI's name, Tencent's: the first that occurs applies
    ("t_embedder.in_layer.", "t_embedder.mlp.0."),
    ("t_embedder.out_layer.", "t_embedder.mlp.2."),
    ("c_embedder.in_layer.", "c_embedder.linear_1."),
    ("c_embedder.out_layer.", "c_embedder.linear_2."),
    ("time_in.in_layer.", "time_in.mlp.0."),
    ("time_in.out_layer.", "time_in.mlp.2."),
    ("guidance_in.in_layer.", "guidance_in.mlp.0."),
    ("guidance_in.out_layer.", "guidance_in.mlp.2."),
    ("_attn.norm.query_norm.", "_attn_q_norm."),
    ("_attn.norm.key_norm.", "_attn_k_norm."),
    (".norm.query_norm.", ".q_norm."),
    (".norm.key_norm.", ".k_norm."),
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    ("_mod.lin.", "_mod.linear."),
    (".modulation.lin.", ".modulation.linear."),
)


def tencent(path: str) -> str:
    return next((path.replace(own, other) for own, other in TENCENT if own in path), path)


@dataclass(frozen=True)
class Checkpoint:
    model: str  # key list of the host's model
    converter: str  # in diffusers.loaders.single_file_utils
    spelling: Spelling = same  # from the host's name to the one in the checkpoint that the converter reads
    without: tuple[str, ...] = ()  # how host paths begin that are not in the checkpoint
    unnamed: tuple[str, ...] = ()  # how converted names end that no adapter changes: of another shape in the host


CHECKPOINTS = (
    Checkpoint("flux1_dev", "convert_flux_transformer_checkpoint_to_diffusers", norms_with_scale),
    Checkpoint("flux2_dev", "convert_flux2_transformer_checkpoint_to_diffusers", norms_with_scale),
    Checkpoint("chroma", "convert_chroma_transformer_checkpoint_to_diffusers", norms_with_scale),
    Checkpoint("hunyuan_video", "convert_hunyuan_video_transformer_to_diffusers", tencent),
    Checkpoint("sd3_medium", "convert_sd3_transformer_checkpoint_to_diffusers"),
    Checkpoint("sd35_medium", "convert_sd3_transformer_checkpoint_to_diffusers"),
    Checkpoint("sd35_large", "convert_sd3_transformer_checkpoint_to_diffusers"),
    Checkpoint("auraflow", "convert_auraflow_transformer_checkpoint_to_diffusers"),
    Checkpoint("wan21_i2v_14b", "convert_wan_transformer_to_diffusers"),
    Checkpoint("wan21_t2v_14b", "convert_wan_transformer_to_diffusers"),
    Checkpoint("wan21_vace", "convert_wan_transformer_to_diffusers"),
    Checkpoint("ltxv_2b", "convert_ltx_transformer_checkpoint_to_diffusers"),
    Checkpoint("lumina2", "convert_lumina2_to_diffusers"),
    Checkpoint("zimage", "convert_z_image_transformer_checkpoint_to_diffusers"),
    Checkpoint("anima", "convert_cosmos_transformer_checkpoint_to_diffusers", without=("llm_adapter.",)),
    Checkpoint("krea2", "convert_krea2_transformer_checkpoint_to_diffusers", unnamed=("scale_shift_table",)),
    Checkpoint("hidream", "convert_hidream_transformer_to_diffusers"),
)


@dataclass(frozen=True)
class LoraFile:
    model: str  # key list of the host's model
    converter: str  # in diffusers.loaders.lora_conversion_utils
    prefix: str = "diffusion_model."  # of the file's keys, before the host's path
    skipped: str = ""  # what of the host's path the file leaves out
    without: tuple[str, ...] = ()  # how host paths begin that the converter doesn't take


LORA_FILES = (
    LoraFile("ltx2", "_convert_non_diffusers_ltx2_lora_to_diffusers", without=("audio_embed", "video_embed")),
    LoraFile("krea2", "_convert_non_diffusers_krea2_lora_to_diffusers"),
    LoraFile("anima", "_convert_non_diffusers_anima_lora_to_diffusers"),
    LoraFile("ace_step15", "_convert_non_diffusers_ace_step_lora_to_diffusers", "base_model.model.", "decoder."),
)


def host_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """State-dict name inside the host's model -> shape."""
    listed = read_list(f"base_{model}_comfy").items()
    return {key.removeprefix("diffusion_model."): tuple(shape) for key, (_, shape) in listed}


def numbered_rows(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A tensor of row numbers for each weight; no number occurs twice."""
    rows: dict[str, Tensor] = {}
    first = 0
    for name, shape in shapes.items():
        count = shape[0] if shape else 1
        rows[name] = torch.arange(first, first + count)
        first += count
    return rows


def known_names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Name]:
    """Every name of every weight and bare parameter; none of them may mean two places."""
    layers = ((name.removesuffix(".weight").removesuffix(".scale"), shape) for name, shape in shapes.items())
    paths = {path: shape for path, shape in layers if not path.endswith(".bias")}
    known = {path: Name(path, path) for path in paths}
    for name in names_of_part("unet", paths):
        first = known.setdefault(name.name, name)
        assert (first.inner, first.rows, first.swap_halves) == (name.inner, name.rows, name.swap_halves)
    return known


def rows_of(name: Name, rows: Mapping[str, Tensor]) -> Tensor:
    found = next((rows[name.inner + end] for end in (".weight", ".scale", "") if name.inner + end in rows), None)
    assert found is not None
    part = found[slice(*name.rows)] if name.rows else found
    return part.roll(len(part) // 2) if name.swap_halves else part


def converter(module: object, name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    found = getattr(module, name, None)
    if found is None:
        pytest.skip(f"this diffusers has no {name}")
    return found


@pytest.mark.parametrize("case", CHECKPOINTS, ids=lambda case: case.model)
def test_a_converted_checkpoint_has_under_each_name_the_rows_that_the_name_means(case: Checkpoint) -> None:
    shapes = {name: shape for name, shape in host_shapes(case.model).items() if not name.startswith(case.without)}
    rows = numbered_rows(shapes)
    known = known_names(shapes)
    checkpoint = {case.spelling(name): row.clone() for name, row in rows.items()}
    converted = converter(single_file_utils, case.converter)(checkpoint)
    checked = 0
    for key, got in converted.items():
        name = key.removesuffix(".weight")
        if name.endswith((".bias", *case.unnamed)):
            continue
        assert name in known, name
        assert torch.equal(got.flatten(), rows_of(known[name], rows)), name
        checked += 1
    assert checked >= sum(key.endswith(".weight") for key in read_list(f"base_{case.model}_diffusers"))


@pytest.mark.parametrize("case", LORA_FILES, ids=lambda case: case.model)
def test_a_converted_lora_has_under_each_name_the_rows_that_the_name_means(case: LoraFile) -> None:
    shapes = {name: shape for name, shape in host_shapes(case.model).items() if not name.startswith(case.without)}
    rows = numbered_rows(shapes)
    known = known_names(shapes)
    layers = [name.removesuffix(".weight") for name, shape in shapes.items() if _is_layer(name, shape)]
    file = {
        f"{case.prefix}{layer.removeprefix(case.skipped)}.lora_B.weight": rows[f"{layer}.weight"] for layer in layers
    }
    converted = converter(lora_conversion_utils, case.converter)(file)
    assert len(converted) == len(layers) > 0
    for key, got in converted.items():
        name = key.removesuffix(".lora_B.weight").removeprefix("transformer.")
        assert torch.equal(got, rows_of(known[name], rows)), name


@pytest.mark.parametrize("model", ["flux1_dev", "flux2_dev", "chroma", "hunyuan_video"])
def test_a_host_whose_norms_are_bare_parameters_knows_the_same_names(model: str) -> None:
    shapes = host_shapes(model)
    earlier = known_names({norms_with_scale(name): shape for name, shape in shapes.items()})
    for name, now in known_names(shapes).items():
        assert earlier[name] == now


def test_a_converted_xlabs_file_has_under_each_name_the_rows_that_the_name_means() -> None:
    shapes = host_shapes("flux1_dev")
    rows = numbered_rows(shapes)
    known = known_names(shapes)
    layers = [name for name in known if ".processor." in name and name.rstrip("12").endswith("_lora")]
    assert len(layers) == 19 * 4 + 38 * 2
    file = {f"{layer}.up.weight": rows_of(known[layer], rows) for layer in layers}
    file |= {f"{layer}.down.weight": torch.zeros(1) for layer in layers}
    converted = lora_conversion_utils._convert_xlabs_flux_lora_to_diffusers(file)
    ups = {key: got for key, got in converted.items() if key.endswith(".lora_B.weight")}
    assert len(ups) == 19 * 8 + 38 * 4
    for key, got in ups.items():
        name = key.removesuffix(".lora_B.weight").removeprefix("transformer.")
        assert torch.equal(got, rows_of(known[name], rows)), name


def test_tencents_names_of_every_layer_are_known() -> None:
    known = known_names(host_shapes("hunyuan_video"))
    for name in host_shapes("hunyuan_video"):
        if name.endswith(".weight"):
            found = known[tencent(name).removesuffix(".weight")]
            assert (found.inner, found.rows, found.swap_halves) == (name.removesuffix(".weight"), None, False)


def _is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) > 1
