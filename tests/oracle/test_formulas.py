"""Scale and delta of one layer equal PEFT's own numbers, and LyCORIS's formula for a middle tensor, in float64."""

from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import LoadedLora, NameTable, list_targets, load_lora, open_lora
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d

from .adapters import injected, lora_layers
from .comparison import largest_difference
from .spellings import peft_directory
from .tiny_unets import TwinUNet

RECIPES = ("own alpha", "patterns", "rank-stabilised patterns", "every layer")
CONV_PATH = "diffusion_model.input_blocks.1.0.in_layers.2"
CONV_NAME = "lora_unet_input_blocks_1_0_in_layers_2"
OUT, IN, RANK, KERNEL, ALPHA = 6, 5, 3, (3, 3), 2.0
ROUNDING = 1e-6  # of numbers of the order of 1, float32

TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
PATTERNS: tuple[dict[str, float], ...] = (
    {"to_q": 5},
    {"attn1.to_q": 5},
    {"n1.to_q": 5},  # no whole segment: does not fit
    {TO_Q: 5},
    {r"down_blocks\.\d+\..*": 5},
    {r"(down|up)_blocks\..*\.to_[qk]": 5},
    {r"up_blocks\..*": 5},
    {"to_k": 3, "to_q": 5, r".*\.to_q": 7},  # the first that fits counts
    {r".*\.to_q": 7, "to_q": 5},
    {r"(^|.*\.)to_q": 5},
)

ANCHORED = (
    "^down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",  # the kind of the example in PEFT's documentation
    r"^down_blocks\..*\.to_q",
)
PREFIXES = ("", "base_model.model.", "unet.")


@pytest.mark.parametrize("recipe", RECIPES)
def test_scale_and_delta_of_every_layer_are_those_of_peft(twins: dict[str, TwinUNet], tmp_path: Path, recipe: str):
    twin = twins["SD1.5"]
    shapes = {name: tuple(tensor.shape) for name, tensor in twin.reference.state_dict().items()}
    with injected(twin.reference, {"one": recipe}) as (adapter,):
        peft_directory(tmp_path / "adapter_model.safetensors", twin, adapter)
        loaded = load(tmp_path / "adapter_model.safetensors", shapes)
        theirs = lora_layers(twin.reference, "one")
        assert {placed.place.path for placed in loaded.adapters} == theirs.keys()
        for placed in loaded.adapters:
            layer = theirs[placed.place.path]
            assert placed.adapter.scale == layer.scaling["one"], placed.place.path
            assert largest_difference(placed.adapter.delta(), layer.get_delta_weight("one")) <= ROUNDING


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_alpha_patterns_fit_the_layers_that_they_fit_in_peft(tmp_path: Path, patterns: dict[str, float], prefix: str):
    LoraConfig(r=1, lora_alpha=1, alpha_pattern=patterns).save_pretrained(tmp_path)
    saved = LoraConfig.from_pretrained(tmp_path).alpha_pattern  # in the order of the file, which PEFT sorts
    assert scale_read(tmp_path, prefix) == saved.get(get_pattern_key(saved, TO_Q), 1)


@pytest.mark.parametrize("prefix", PREFIXES[1:])
@pytest.mark.parametrize("pattern", ANCHORED)
def test_an_anchored_alpha_pattern_fits_as_in_peft(tmp_path: Path, pattern: str, prefix: str):
    assert get_pattern_key([pattern], TO_Q) == pattern
    LoraConfig(r=1, lora_alpha=1, alpha_pattern={pattern: 5}).save_pretrained(tmp_path)
    assert scale_read(tmp_path, prefix) == 5


def test_an_alpha_pattern_with_an_optional_group_fits_as_in_peft(tmp_path: Path):
    pattern = r"(transformer_blocks\.0\.)?attn1\.to_q"
    assert get_pattern_key([pattern], TO_Q) == pattern
    LoraConfig(r=1, lora_alpha=1, alpha_pattern={pattern: 5}).save_pretrained(tmp_path)
    assert scale_read(tmp_path, "") == 5


def test_a_configuration_that_leaves_alpha_out_means_the_default_of_peft(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    assert scale_read(tmp_path, "base_model.model.") == LoraConfig.from_pretrained(tmp_path).lora_alpha


@pytest.fixture
def tucker() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(7)
    return {
        "lora_down": torch.randn(RANK, IN, 1, 1, generator=rng),
        "lora_mid": torch.randn(RANK, RANK, *KERNEL, generator=rng),
        "lora_up": torch.randn(OUT, RANK, 1, 1, generator=rng),
    }


def test_a_middle_tensor_gives_the_delta_of_lycoris(tucker: dict[str, Tensor], tmp_path: Path):
    """rebuild_tucker of LyCORIS 4: einsum("i j ..., i p, j r -> p r ...", mid, up.T, down)."""
    up, mid, down = (tucker[name].double() for name in ("lora_up", "lora_mid", "lora_down"))
    delta = torch.einsum("ij...,ip,jr->pr...", mid, up.flatten(1).T, down.flatten(1))
    assert largest_difference(conv_delta(tmp_path, tucker), delta * ALPHA / RANK) <= 4 * ROUNDING


def test_a_middle_tensor_acts_as_three_convolutions_in_a_row(tucker: dict[str, Tensor], tmp_path: Path):
    x = picture()
    hidden = conv2d(conv2d(x, tucker["lora_down"].double()), tucker["lora_mid"].double(), padding=1)
    expected = conv2d(hidden, tucker["lora_up"].double()) * ALPHA / RANK
    found = conv2d(x, conv_delta(tmp_path, tucker).double(), padding=1)
    assert largest_difference(found, expected) <= 20 * ROUNDING


def test_a_convolution_acts_as_down_and_up_in_a_row(tmp_path: Path):
    rng = torch.Generator().manual_seed(8)
    down, up = torch.randn(RANK, IN, *KERNEL, generator=rng), torch.randn(OUT, RANK, 1, 1, generator=rng)
    x = picture()
    expected = conv2d(conv2d(x, down.double(), padding=1), up.double()) * ALPHA / RANK
    found = conv2d(x, conv_delta(tmp_path, {"lora_down": down, "lora_up": up}).double(), padding=1)
    assert largest_difference(found, expected) <= 20 * ROUNDING


def load(path: Path, shapes: dict[str, tuple[int, ...]]) -> LoadedLora:
    layout = list_targets(shapes)
    loaded = load_lora(open_lora(path), layout, NameTable(layout))
    loaded.report.require_complete()
    return loaded


def scale_read(folder: Path, prefix: str) -> float:
    """The scale that we give the only layer of a file, to_q of rank 1, by the adapter_config.json beside it."""
    tensors = {f"{prefix}{TO_Q}.lora_A.weight": torch.ones(1, 4), f"{prefix}{TO_Q}.lora_B.weight": torch.ones(4, 1)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (placed,) = load(folder / "adapter_model.safetensors", {f"{TO_Q}.weight": (4, 4)}).adapters
    return placed.adapter.scale


def conv_delta(folder: Path, tensors: dict[str, Tensor]) -> Tensor:
    """The delta that we make of a kohya file for one convolution."""
    named = {f"{CONV_NAME}.{name}.weight": tensor for name, tensor in tensors.items()}
    save_file({**named, f"{CONV_NAME}.alpha": torch.tensor(ALPHA)}, folder / "conv.safetensors")
    (placed,) = load(folder / "conv.safetensors", {f"{CONV_PATH}.weight": (OUT, IN, *KERNEL)}).adapters
    return placed.adapter.delta()


def picture() -> Tensor:
    return torch.randn(2, IN, 8, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
