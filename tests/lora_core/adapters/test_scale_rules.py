"""The scale of a layer follows the first of: its own alpha, a pattern, the file's alpha, its rank."""

import json
import math

import pytest
from lora_pack.lora_core.adapters.scale_rules import scale_rules

CONFIG = {"r": 8, "lora_alpha": 16, "alpha_pattern": {"attn1.to_q": 4, r".*mid_block.*\.to_k": 32}}


def _scale(layer: str, rank: int, alpha: float | None = None, **given: object) -> float:
    metadata = given.get("metadata", {})
    config = given.get("config")
    rules, _ = scale_rules(metadata, config, alpha_prefixes=frozenset({""} if alpha else ()))  # type: ignore[arg-type]
    return rules.scale(layer, layer.removeprefix("base_model.model."), rank, alpha)[0]


def test_without_any_alpha_the_scale_is_1() -> None:
    assert _scale("a", 8) == 1.0


def test_the_layers_own_alpha_is_divided_by_its_own_rank() -> None:
    assert _scale("a", 8, alpha=4.0) == 0.5


def test_a_peft_configuration_gives_the_alpha_of_every_layer() -> None:
    assert _scale("base_model.model.x", 8, config=CONFIG) == 2.0


@pytest.mark.parametrize(
    ("layer", "alpha"),
    [
        ("base_model.model.down.attn1.to_q", 4),
        ("base_model.model.down.xattn1.to_q", 16),
        ("base_model.model.mid_block.attn.to_k", 32),
        ("base_model.model.down.to_v", 16),
    ],
)
def test_an_alpha_pattern_fits_the_end_of_a_name_or_as_a_whole(layer: str, alpha: int) -> None:
    assert _scale(layer, 8, config=CONFIG) == alpha / 8


def test_configurations_of_loha_and_lokr_say_alpha() -> None:
    assert _scale("base_model.model.x", 8, config={"r": 8, "alpha": 4}) == 0.5


def test_rank_stabilised_configurations_divide_by_the_root_of_the_rank() -> None:
    assert _scale("a", 16, config={"lora_alpha": 8, "use_rslora": True}) == 8 / math.sqrt(16)


def test_the_header_of_diffusers_gives_each_part_its_own_configuration() -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 16, "unet.r": 8, "text_encoder.lora_alpha": 4})}
    assert _scale("unet.x.to_q", 8, metadata=metadata) == 2.0
    assert _scale("text_encoder.x.q_proj", 8, metadata=metadata) == 0.5
    assert _scale("text_encoder_2.x.q_proj", 8, metadata=metadata) == 1.0


@pytest.mark.parametrize("value", ["many", "1e300", "nan", "-inf"])
def test_an_alpha_that_can_not_be_used_is_noted_and_taken_as_the_rank(value: str) -> None:
    for metadata, config in (({"lora_alpha": value}, None), ({}, {"r": 8, "lora_alpha": value})):
        rules, notes = scale_rules(metadata, config, alpha_prefixes=frozenset())
        assert rules.scale("a", "a", 8, None)[0] == 1.0
        assert [note for note in notes if f"lora_alpha is '{value}'" in note]


@pytest.mark.parametrize("name", ["lora_alpha", "network_alpha", "alpha"])
def test_a_plain_alpha_in_the_header_holds_for_the_file(name: str) -> None:
    assert _scale("transformer.x", 128, metadata={name: "8"}) == 8 / 128


def test_alpha_tensors_are_not_scaled_again_by_the_header() -> None:
    rules, notes = scale_rules({"lora_alpha": "8"}, None, alpha_prefixes=frozenset({""}))
    assert rules.scale("a", "a", 4, 2.0)[0] == 0.5
    assert rules.scale("without an alpha", "without an alpha", 4, None)[0] == 1.0
    assert any("not applied on top" in note for note in notes)


def test_the_header_counts_for_the_parts_that_have_no_alpha_tensors() -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 16, "text_encoder.lora_alpha": 4})}
    rules, _ = scale_rules(metadata, None, alpha_prefixes=frozenset({"unet."}))
    assert rules.scale("unet.x", "x", 8, 2.0)[0] == 0.25
    assert rules.scale("unet.y", "y", 8, None)[0] == 1.0
    assert rules.scale("text_encoder.x", "x", 8, None)[0] == 0.5


def test_kohyas_network_alpha_is_only_a_hint() -> None:
    assert _scale("a", 64, metadata={"ss_network_alpha": "1", "ss_network_dim": "1"}) == 1.0


@pytest.mark.parametrize("text", ["{", "[]", "[" * 5000, "null"])
def test_a_header_that_can_not_be_read_is_told_and_the_rank_is_taken(text: str) -> None:
    rules, notes = scale_rules({"lora_adapter_metadata": text}, None, alpha_prefixes=frozenset())
    assert rules.scale("a", "a", 8, None)[0] == 1.0
    assert "can't be read" in notes[0]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", "a*a*a*a*a*a*b", "a?" * 30 + "a" * 30, "(", "x" * 1000])
def test_a_pattern_that_is_broken_or_could_take_for_ever_is_not_tried_and_told(pattern: str) -> None:
    config = {"lora_alpha": 4, "alpha_pattern": {pattern: 99}}
    assert _scale("a" * 60, 4, config=config) == 1.0
    _, notes = scale_rules({}, config, alpha_prefixes=frozenset())
    assert "can't be used" in notes[0]


@pytest.mark.parametrize("pattern", ["^down.*to_q", r"(down\.)?attn1\.to_q", r"down\.attn1\.to_q$"])
def test_anchors_and_optional_groups_mean_what_they_mean_in_peft(pattern: str) -> None:
    config = {"lora_alpha": 8, "alpha_pattern": {pattern: 4}}
    assert _scale("base_model.model.down.attn1.to_q", 8, config=config) == 0.5


def test_a_peft_configuration_without_alpha_means_pefts_default() -> None:
    assert _scale("base_model.model.x", 2, config={"peft_type": "LORA", "r": 2}) == 4.0


@pytest.mark.parametrize("value", ["x", None, float("nan"), [1]])
def test_an_alpha_that_is_no_number_is_not_taken(value: object) -> None:
    assert _scale("a", 4, config={"lora_alpha": value}) == 1.0
