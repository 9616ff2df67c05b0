"""docs/coverage.md says what the code does now; the host's column is as it was when the page was made."""

from pathlib import Path

import pytest
from lora_pack.benchmarks.coverage import Account, HostAccount, list_names, model_of, own_account, read_table, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"


def test_our_columns_are_what_the_code_gives_now() -> None:
    written = read_table(PAGE.read_text(encoding="utf-8"))
    now = {name: own_account(name) for name in list_names()}
    assert written == now, "docs/coverage.md is out of date: run `python -m devtools.coverage`"


def test_a_page_is_read_as_it_was_written() -> None:
    ours = {"sdxl_a": Account(9, 6, 2, 1), "sdxl_b": Account(3, 3, 0, 0)}
    page = table(ours, {"sdxl_a": HostAccount(4, live=False), "sdxl_b": None}, "ComfyUI 1.2.3")
    assert read_table(page) == ours
    assert "ComfyUI 1.2.3" in page and "| 4 † |" in page and "takes 1 of 2 lists whole, the host 0 of 1" in page


@pytest.mark.parametrize(
    ("name", "denoiser"),
    [
        ("wan_i2v_kohya_musubi", "wan21_i2v_14b_comfy"),
        ("flux2_kohya_musubi", "flux2_dev_comfy"),
        ("hunyuan_video_kohya_musubi", "hunyuan_video_comfy"),
        ("lumina2_of_tomorrow", "lumina2_comfy"),
    ],
)
def test_a_list_is_held_against_the_model_of_its_name(name: str, denoiser: str) -> None:
    assert model_of(name)[0] == denoiser


def test_a_list_for_a_model_that_is_not_recorded_is_told_by_name() -> None:
    with pytest.raises(SystemExit, match="which model is the list nothing_like_it for"):
        model_of("nothing_like_it")
