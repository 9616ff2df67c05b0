"""Which pictures of a folder are trained on, with which caption, how often."""

import json
from pathlib import Path

import pytest
from lora_pack.lora_core.errors import FileMissing, NoPictures
from lora_pack.lora_core.training.dataset import find_pictures, folder_fingerprint

from .picture_files import save_pictures


def _captions(folder: Path) -> dict[str, str | None]:
    return {file.name: file.caption for file in find_pictures(folder).files}


def test_pictures_come_in_the_order_of_their_names_whatever_their_kind(tmp_path: Path) -> None:
    save_pictures(tmp_path, "b.jpg", "a.PNG", "c.webp", "d.tiff")
    (tmp_path / "notes.md").write_text("no picture")
    (tmp_path / "._a.PNG").write_bytes(b"what macOS keeps beside a picture")
    assert [file.name for file in find_pictures(tmp_path).files] == ["a.PNG", "b.jpg", "c.webp", "d.tiff"]


def test_a_caption_is_the_text_file_beside_the_picture(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.txt.png", "b.png", "c.png")
    (tmp_path / "a.txt.txt").write_text("\ufeffa cat,\n on a mat \n", encoding="utf-8")
    (tmp_path / "b.caption").write_text("ein Käfer", encoding="utf-8")
    assert _captions(tmp_path) == {"a.txt.png": "a cat, on a mat", "b.png": "ein Käfer", "c.png": None}


@pytest.mark.parametrize(("list_name", "field"), [("metadata.jsonl", "text"), ("captions.jsonl", "caption")])
def test_captions_in_a_list_are_for_the_pictures_they_name(tmp_path: Path, list_name: str, field: str) -> None:
    save_pictures(tmp_path / "5_cat", "a.png", "b.png")
    save_pictures(tmp_path, "c.png")
    (tmp_path / "c.txt").write_text("beside", encoding="utf-8")
    lines = [{"file_name": "5_cat/a.png", field: "from the list"}, {"file_name": "c.png", field: "not this one"}]
    (tmp_path / list_name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert _captions(tmp_path) == {"c.png": "beside", "5_cat/a.png": "from the list", "5_cat/b.png": "cat"}


def test_lines_that_are_no_captions_and_captions_without_picture_are_told(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    lines = ['{"file_name": "a.png", "text": "good"}', "{broken", "", "[1]", '{"file_name": "gone.png", "text": "x"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = find_pictures(tmp_path)
    assert found.files[0].caption == "good"
    assert len(found.notes) == 2
    assert "metadata.jsonl" in found.notes[0] and "line 2, 4" in found.notes[0]
    assert "gone.png" in found.notes[1]


def test_a_folder_with_a_number_in_front_gives_repeats_and_a_caption(tmp_path: Path) -> None:
    save_pictures(tmp_path / "10_ohwx cat", "a.png")
    save_pictures(tmp_path / "3_", "b.png")
    save_pictures(tmp_path, "c.png")
    files = {file.name: (file.repeats, file.caption) for file in find_pictures(tmp_path).files}
    assert files == {"10_ohwx cat/a.png": (10, "ohwx cat"), "3_/b.png": (3, None), "c.png": (1, None)}
    assert [file.repeats for file in find_pictures(tmp_path / "10_ohwx cat").files] == [10]


def test_other_folders_are_left_out_and_told(tmp_path: Path) -> None:
    save_pictures(tmp_path / "old", "a.png", "b.png")
    save_pictures(tmp_path / "0_none", "a.png")
    save_pictures(tmp_path, "c.png")
    found = find_pictures(tmp_path)
    assert [file.name for file in found.files] == ["c.png"]
    assert "0_none (1), old (2)" in found.notes[0]


def test_a_folder_without_pictures_is_refused_and_says_where_pictures_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a caption alone")
    with pytest.raises(NoPictures, match="holds no picture"):
        find_pictures(tmp_path)
    save_pictures(tmp_path / "inner", "a.png")
    with pytest.raises(NoPictures, match=r"inner \(1\)"):
        find_pictures(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="can't be read"):
        find_pictures(tmp_path / "gone")


def test_a_caption_that_is_no_text_is_the_pictures_problem(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00a")
    assert "its caption can't be read" in find_pictures(tmp_path).files[0].problem


def test_the_fingerprint_of_a_folder_changes_with_any_of_its_files(tmp_path: Path) -> None:
    save_pictures(tmp_path / "2_cat", "a.png")
    seen = {folder_fingerprint(tmp_path)}
    assert folder_fingerprint(tmp_path) in seen
    for change in (
        lambda: (tmp_path / "2_cat" / "a.txt").write_text("one"),
        lambda: (tmp_path / "2_cat" / "a.txt").write_text("three"),
        lambda: (tmp_path / "2_cat" / "a.png").rename(tmp_path / "a.png"),
    ):
        change()
        assert folder_fingerprint(tmp_path) not in seen
        seen.add(folder_fingerprint(tmp_path))
