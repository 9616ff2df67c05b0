"""What a file says of itself is read from every trainer's metadata, and nothing malformed in it stops anything."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest
from lora_pack.lora_core.files.metadata import About, read_about

from ..adapter_files import KEY_LISTS

KOHYA = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "16",
    "ss_network_alpha": "8.0",
    "ss_network_args": '{"conv_dim": "8", "use_tucker": true}',
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "v1-5-pruned.safetensors",
    "ss_output_name": "sks_dog",
    "ss_training_comment": "None",
    "ss_tag_frequency": json.dumps({"10_sks dog": {"sks dog": 20, " outdoors": 5}, "1_zwx cat": {"zwx cat": 20}}),
    "ss_dataset_dirs": json.dumps({"10_sks dog": {"n_repeats": 10, "img_count": 20}, "1_zwx cat": {"img_count": 20}}),
}
AI_TOOLKIT = {  # shape of a real ai-toolkit file
    "format": "pt",
    "name": "JimmyVehicle",
    "software": '{"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.9.11"}',
    "training_info": '{"step": 3000, "epoch": 333}',
    "ss_base_model_version": "zimage",
    "ss_output_name": "JimmyVehicle",
    "ss_tag_frequency": '{"1_jimmyvehicle": {"jimmyvehicle": 1}}',
}


def _recorded(name: str) -> dict[str, str]:
    return json.loads((KEY_LISTS / f"{name}.metadata.json").read_text(encoding="utf-8"))


def _words(about: About) -> list[tuple[str, float, str]]:
    return [(word.text, word.share, word.source) for word in about.trigger_words]


def test_a_real_kohya_file_with_the_python_spelling_of_its_arguments() -> None:
    about = read_about(_recorded("sdxl_kohya_lcm_rank1_muchai"))
    assert (about.title, about.merged_from, about.resolution) == ("sdxl_LCM_lora_rank1", "sdxl_LCM_lora", "1024x1024")
    assert (about.architecture, about.prediction_type) == ("stable-diffusion-xl-v1-base/lora", "epsilon")
    assert (about.base_model, about.trainer) == ("sdxl_base_v1-0", "kohya sd-scripts")
    assert (about.network_module, about.network_dim, about.network_alpha) == ("networks.lora", "1", "1")
    assert about.network_args == {"conv_dim": 1, "conv_alpha": 1}
    assert about.unreadable == {}


def test_a_real_file_without_a_word_in_its_metadata_says_nothing() -> None:
    about = read_about(_recorded("sd15_kohya_lcm_muchai"))
    assert about == About()
    assert about.lines() == []


def test_words_are_ranked_by_their_share_of_the_images_of_all_datasets() -> None:
    about = read_about(KOHYA)
    assert _words(about) == [
        ("sks dog", 0.5, "folder"),
        ("zwx cat", 0.5, "folder"),
        ("outdoors", 0.125, "captions"),
    ]


def test_without_image_counts_the_most_frequent_tag_stands_for_all_images() -> None:
    about = read_about({"ss_tag_frequency": '{"img": {"ohwx man": 40, "hat": 10}, "more": {"hat": 10}}'})
    assert _words(about) == [("ohwx man", 0.8, "captions"), ("hat", 0.4, "captions")]


def test_regularisation_images_and_class_tokens_of_a_configured_dataset() -> None:
    subsets = [
        {"image_dir": "pictures", "img_count": 12, "class_tokens": "sks dog", "is_reg": False},
        {"image_dir": "dogs", "img_count": 900, "class_tokens": "dog", "is_reg": True},
    ]
    tags = {"pictures": {"running": 3}, "dogs": {"a dog": 900}}
    about = read_about({"ss_datasets": json.dumps([{"subsets": subsets, "tag_frequency": tags}])})
    assert _words(about) == [("sks dog", 1.0, "folder"), ("running", 0.25, "captions")]


@pytest.mark.parametrize(
    ("trainer", "metadata"),
    [
        ("kohya sd-scripts", KOHYA),
        ("ai-toolkit", AI_TOOLKIT),
        ("LyCORIS", KOHYA | {"ss_network_module": "lycoris.kohya"}),
        ("OneTrainer", {"ot_branch": "master", "ot_revision": "abc", "modelspec.title": "x"}),
        ("SimpleTuner", {"lycoris_config": "{}"}),
        ("diffusers", {"format": "pt", "lora_adapter_metadata": "{}"}),
        ("musubi-tuner", {"ss_network_module": "networks.lora_wan", "ss_base_model_version": "wan"}),
        ("musubi-tuner", {"ss_network_module": "networks.lora", "ss_base_model_version": "hunyuan_video"}),
        ("cloneofsimo/lora", "sd15_cloneofsimo_pti_embeds"),
        (None, {"format": "pt"}),
    ],
)
def test_the_trainer_is_recognised(trainer: str | None, metadata: Mapping[str, str] | str) -> None:
    fields = _recorded(metadata) if isinstance(metadata, str) else metadata
    assert read_about(fields).trainer == trainer


def test_the_lines_for_a_person() -> None:
    said = {"modelspec.author": "somebody\nelse", "modelspec.trigger_phrase": "sks", "modelspec.usage_hint": "x" * 500}
    assert read_about(KOHYA | said).lines() == [
        "Title: sks_dog by somebody else",
        "Base model: sd_v1, v1-5-pruned.safetensors",
        "Trainer: kohya sd-scripts: networks.lora, dim 16, alpha 8.0",
        "Trigger phrase: sks",
        "Words in training: sks dog (50%), zwx cat (50%), outdoors (12%)",
        f"Usage: {'x' * 157}...",
    ]


def test_a_thumbnail_is_measured_and_not_decoded() -> None:
    assert read_about({"modelspec.thumbnail": "data:image/jpeg;base64,AAAAAAA="}).thumbnail_bytes == 5


DEEP = "[" * 100_000
BAD_VALUES = (
    ("ss_network_args", "{'a': 1"),
    ("ss_network_args", "__import__('os').system('true')"),
    ("ss_network_args", "[1, 2]"),
    ("ss_network_args", DEEP),
    ("ss_network_args", "-" * 16_000 + "1"),
    ("ss_network_args", "{'a': '\\d', }}"),
    ("ss_tag_frequency", "many"),
    ("ss_tag_frequency", "[]"),
    ("ss_tag_frequency", '{"two\\nlines": null}'),
    ("ss_tag_frequency", '{"a": ["b"]}'),
    ("ss_tag_frequency", '{"a": {"b": -1}}'),
    ("ss_tag_frequency", '{"a": {"b": NaN}}'),
    ("ss_tag_frequency", '{"a": {"b": true}}'),
    ("ss_tag_frequency", DEEP),
    ("ss_dataset_dirs", '{"a": 5}'),
    ("ss_dataset_dirs", '{"a": {"img_count": "x"}}'),
    ("ss_datasets", "{}"),
    ("ss_datasets", "[5]"),
    ("ss_datasets", '[{"subsets": 5}]'),
    ("ss_datasets", '[{"subsets": [5]}]'),
    ("modelspec.thumbnail", "https://example.org/a.png"),
)


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_malformed_value_is_named_and_the_rest_is_read(field: str, value: str) -> None:
    about = read_about({"modelspec.title": "good", field: value})
    assert list(about.unreadable) == [field]
    assert about.title == "good"
    assert all("\n" not in line for line in about.lines())
    assert about.lines()[-1].startswith(f"Metadata that can't be read: {field} (")


def test_nothing_in_the_json_form_is_beyond_json() -> None:
    odd: Any = read_about({"ss_network_args": '{"a": NaN, "b": [1], "c": Infinity, "d": null}'}).as_json()
    assert json.loads(json.dumps(odd, allow_nan=False))["network_args"]["d"] is None


def test_counts_beyond_the_images_are_no_share_above_one() -> None:
    metadata = {"ss_tag_frequency": '{"a": {"b": 50}}', "ss_dataset_dirs": '{"a": {"img_count": 10}}'}
    assert _words(read_about(metadata)) == [("b", 1.0, "captions")]


def test_ten_thousand_captions_give_a_short_list() -> None:
    captions = {f"a picture number {number}": 1 for number in range(10_000)}
    about = read_about({"ss_tag_frequency": json.dumps({"100_GiniS2": captions}), "ss_dataset_dirs": "{}"})
    assert len(about.trigger_words) == 30


def test_every_recorded_metadata_belongs_to_a_key_list_or_names_its_source() -> None:
    readme = (KEY_LISTS / "README.md").read_text(encoding="utf-8")
    for path in KEY_LISTS.glob("*.metadata.json"):
        name = path.name.removesuffix(".metadata.json")
        assert name in readme
        recorded = KEY_LISTS / f"{name}.json.gz"
        assert not recorded.exists() or gzip.decompress(recorded.read_bytes())


def test_a_field_of_words_beyond_its_limit_is_named_as_unreadable_and_one_below_it_is_read_in_linear_time() -> None:
    """A hundred thousand tags; looking at all of them for each would take hours."""
    tags = json.dumps({"1_a": {f"tag {number}": 1 for number in range(100_000)}})
    assert len(_words(read_about({"ss_tag_frequency": tags}))) == 30
    about = read_about({"ss_tag_frequency": tags + " " * 2_000_000})
    assert about.unreadable == {"ss_tag_frequency": "longer than 2000000 characters"}
