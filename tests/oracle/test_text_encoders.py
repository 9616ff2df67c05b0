"""Adapters of text encoders, injected by PEFT into transformers, do the same through our node's CLIP."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from .adapters import PeftAdapter, Trained, injected, set_strengths
from .comparison import TOLERANCE, apply, apply_to_both, assert_same_effect, largest_difference
from .spellings import pipeline_of, plain_config
from .text_spellings import TEXT_SPELLINGS, Adapters, TextSpelling, kohya_numbered
from .tiny_clips import Encoded, TwinClip
from .tiny_unets import TwinUNet

FAMILIES = ("SD1.5", "SDXL")
FILE = "adapter_model.safetensors"
SAME = {"text_encoder": "alpha as rank", "text_encoder_2": "alpha as rank"}
DIFFERENT = {"text_encoder": "text patterns", "text_encoder_2": "own alpha"}
CASES = [
    pytest.param(family, spelling, id=f"{family}: {spelling.name}")
    for spelling in TEXT_SPELLINGS
    for family in spelling.families
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_twins_agree_before_any_adapter(clips: dict[str, TwinClip], family: str):
    for ours, reference in zip(clips[family].base, clips[family].reference_output(), strict=True):
        assert largest_difference(ours, reference) <= TOLERANCE / 2


@pytest.mark.parametrize(("family", "spelling"), CASES)
def test_every_spelling_gives_the_output_of_peft(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], loras_dir: Path, family: str, spelling: TextSpelling
):
    adapters, expected = trained_text(clips[family], DIFFERENT if spelling.carries_alpha else SAME)
    spelling.write(loras_dir / FILE, family, adapters)
    model, clip = apply_to_both(twins[family].patcher, clips[family].clip, FILE)
    assert_same_encoding(f"{family}: {spelling.name}", clips[family], clip, expected)
    assert not model.patches


@pytest.mark.parametrize("strength", [0.4, -1.0, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_clip_strength_gives_the_output_of_set_adapters(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], loras_dir: Path, family: str, strength: float
):
    adapters, expected = trained_text(clips[family], DIFFERENT, strength)
    kohya_numbered(loras_dir / FILE, family, adapters)
    _, clip = apply_to_both(twins[family].patcher, clips[family].clip, FILE, (0.0, strength))
    assert_same_encoding(f"{family}: CLIP strength {strength}", clips[family], clip, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_clip_strength_0_and_adapters_at_initialisation_are_bit_equal_to_the_base(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], loras_dir: Path, family: str
):
    twin, model = clips[family], twins[family].patcher
    fresh, _ = trained_text(twin, DIFFERENT, trained=False)
    ready, _ = trained_text(twin, DIFFERENT)
    for name, adapters, strength in (("fresh", fresh, 1.0), ("ready", ready, 0.0)):
        kohya_numbered(loras_dir / f"{name}.safetensors", family, adapters)
        _, clip = apply_to_both(model, twin.clip, f"{name}.safetensors", (1.0, strength))
        assert equal(twin.host_output(clip), twin.base), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_clip_given_is_bit_equal_to_before(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], loras_dir: Path, family: str
):
    twin = clips[family]
    before = twin.host_output(twin.clip)
    adapters, _ = trained_text(twin, DIFFERENT)
    kohya_numbered(loras_dir / FILE, family, adapters)
    _, clip = apply_to_both(twins[family].patcher, twin.clip, FILE)
    assert not equal(twin.host_output(clip), before)
    assert equal(twin.host_output(twin.clip), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_file_reaches_unet_and_text_encoders_each_at_its_own_alpha(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], trained: Trained, loras_dir: Path, family: str
):
    unet, expected_image = trained(family, "every layer")
    texts, expected_text = trained_text(clips[family], DIFFERENT)
    write_pipeline(loras_dir / FILE, family, unet, texts)
    model, clip = apply_to_both(twins[family].patcher, clips[family].clip, FILE)
    assert_same_effect(f"{family}: pipeline", twins[family].host_output(model), expected_image, twins[family].base)
    assert_same_encoding(f"{family}: pipeline", clips[family], clip, expected_text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_file_without_a_clip_reaches_the_unet_alone(
    clips: dict[str, TwinClip], twins: dict[str, TwinUNet], trained: Trained, loras_dir: Path, family: str
):
    unet, expected = trained(family, "every layer")
    texts, _ = trained_text(clips[family], DIFFERENT)
    write_pipeline(loras_dir / FILE, family, unet, texts)
    ours = twins[family].host_output(apply(twins[family].patcher, FILE))
    assert_same_effect(f"{family}: pipeline without CLIP", ours, expected, twins[family].base)


def trained_text(
    twin: TwinClip, recipes: Mapping[str, str], strength: float = 1.0, *, trained: bool = True
) -> tuple[Adapters, Encoded]:
    """An adapter on each text encoder, and what the references make of the prompt with them."""
    adapters: dict[str, PeftAdapter] = {}
    with ExitStack() as stack:
        for name, model in twin.references.items():
            (adapters[name],) = stack.enter_context(injected(model, {"one": recipes[name]}, trained=trained))
            set_strengths(model, {"one": strength})
        return adapters, twin.reference_output()


def write_pipeline(path: Path, family: str, unet: PeftAdapter, texts: Adapters) -> None:
    """What the diffusers training scripts leave: all parts of a pipeline in one file."""
    parts = {"unet": unet, **texts}
    layers = {f"{name}_lora_layers": dict(adapter.tensors) for name, adapter in parts.items()}
    headers = {f"{name}_lora_adapter_metadata": plain_config(adapter) for name, adapter in parts.items()}
    pipeline_of(family).save_lora_weights(path.parent, **layers, **headers, weight_name=path.name)


def assert_same_encoding(case: str, twin: TwinClip, clip: object, expected: Encoded) -> None:
    for what, ours, reference, base in zip(
        ("tokens", "pooled"), twin.host_output(clip), expected, twin.base, strict=True
    ):
        assert_same_effect(f"{case}: {what}", ours, reference, base)


def equal(one: Encoded, other: Encoded) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
