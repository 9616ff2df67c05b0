"""The hint beside a key that fits nothing is the name that was meant, or none."""

import pytest
from lora_pack.lora_core.names.nearest import SEARCHES, NearestNames

from ..adapter_files import model_layout


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [target.inner for target in model_layout("sdxl_unet_comfy").targets.values()]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_block_0_attn1_to_q",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        ),
        (
            "lora_unet_input_blocks_8_1_transformer_blocks_3_attn2_to_v_",
            "input_blocks.8.1.transformer_blocks.3.attn2.to_v",
        ),
        ("unet.middle_blok.1.proj_in", "middle_block.1.proj_in"),
        ("lora_unet_double_blocks_0_img_attn_qkv", None),
        ("foo", None),
        ("", None),
    ],
)
def test_the_nearest_name_has_the_numbers_of_the_wrong_one(names: list[str], wrong: str, nearest: str | None) -> None:
    assert NearestNames(names).of(wrong) == nearest


def test_a_file_full_of_misfits_is_not_searched_to_the_end(names: list[str]) -> None:
    index = NearestNames(names)
    hints = [index.of(f"{name}_x") for name in names]
    assert sum(hint is not None for hint in hints) <= SEARCHES < len(names)
    assert index.of(f"{names[0]}_x") == hints[0]


def test_without_names_there_is_no_hint() -> None:
    assert NearestNames([]).of("a.b.c") is None
