"""The page's routes: what they answer, and that nothing outside the loras folders can be read or written."""

import asyncio
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from lora_pack.lora_core import LoraError
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.page import stack_templates
from lora_pack.nodes.page.http_routes import add_routes
from lora_pack.nodes.page.slow_work import SlowWork
from PIL import Image
from safetensors.torch import load_file, save_file

Ask = Callable[..., tuple[int, Any]]
MARKUP = "<img src=x onerror=alert(1)>"


def request(method: str, path: str, **given: Any) -> tuple[int, Any]:
    """Status and answer (JSON as plain data, else bytes) of one request to the routes."""

    async def ask() -> tuple[int, Any]:
        app, routes = web.Application(), web.RouteTableDef()
        add_routes(routes)
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            answer = await client.request(method, f"/lora_loom/{path}", **given)
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type == "application/json" else body

    return asyncio.run(ask())


def get(path: str, name: str | None = None) -> tuple[int, Any]:
    return request("GET", path, params={} if name is None else {"name": name})


def picture(path: Path, side: int = 900) -> None:
    Image.new("RGB", (side, side // 2), (200, 40, 40)).save(path)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A good LoRA, a picture and notes in a folder that is no loras folder."""
    folder = tmp_path / "outside"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, folder / "secret.safetensors", {"modelspec.title": "secret"})
    picture(folder / "secret.png")
    (folder / "secret.metadata.json").write_text('{"notes": "secret"}')
    return folder


def test_the_list_tells_title_base_model_picture_and_notes(style: str, loras_dir: Path) -> None:
    (loras_dir / "sub").mkdir()
    about = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.title": "Ink", "ss_tag_frequency": "x" * 40_000}
    save_file({"a": torch.zeros(1)}, loras_dir / "sub" / "ink.safetensors", about)
    picture(loras_dir / "sub" / "ink.preview.png")
    (loras_dir / "style.metadata.json").write_text("{}")
    (loras_dir / "broken.safetensors").write_bytes(b"no")
    status, answer = get("files")
    by_name = {file["name"]: file for file in answer["files"]}
    assert status == 200 and sorted(by_name) == ["broken.safetensors", "style.safetensors", "sub/ink.safetensors"]
    ink = by_name["sub/ink.safetensors"]
    assert (ink["title"], ink["base_model"], ink["preview"], ink["notes"]) == ("Ink", "sdxl_base_v1-0", True, False)
    assert (by_name[style]["preview"], by_name[style]["notes"]) == (False, True)
    assert by_name["broken.safetensors"]["bytes"] == 2


def test_the_list_sees_a_file_that_was_written_again(loras_dir: Path) -> None:
    save_file({"a": torch.zeros(1)}, loras_dir / "a.safetensors", {"modelspec.title": "first"})
    assert get("files")[1]["files"][0]["title"] == "first"
    save_file({"a": torch.zeros(2)}, loras_dir / "a.safetensors", {"modelspec.title": "second"})
    assert get("files")[1]["files"][0]["title"] == "second"


def test_info_tells_what_a_file_holds_and_says(style: str, loras_dir: Path) -> None:
    tensors = load_file(loras_dir / style)
    save_file(tensors, loras_dir / style, {"modelspec.trigger_phrase": MARKUP, "ss_tag_frequency": "{"})
    status, info = get("info", style)
    assert status == 200
    assert (info["family"], info["dialect"], info["rank"], info["alpha"]) == ("SD1.5", "kohya", [4, 4], [2, 2])
    assert info["metadata"]["modelspec.trigger_phrase"] == MARKUP  # told as it is; the page shows it as text
    assert info["trigger_words"] == [MARKUP]
    assert info["keys"] == len(tensors)


def test_info_of_a_damaged_file_tells_what_is_wrong_and_keeps_the_notes(loras_dir: Path) -> None:
    (loras_dir / "bad.safetensors").write_bytes(b"nothing")
    (loras_dir / "bad.metadata.json").write_text('{"notes": "mine"}')
    status, info = get("info", "bad.safetensors")
    assert (status, info["notes"]) == (200, "mine") and "bad.safetensors" in info["problem"]


def test_the_hash_is_computed_on_request(style: str, loras_dir: Path) -> None:
    import hashlib

    expected = hashlib.sha256((loras_dir / style).read_bytes()).hexdigest()
    assert get("hashes", style)[1]["hashes"]["sha256"] == expected


def test_the_norms_are_those_of_the_deltas_after_a_run(model: Any, style: str, loras_dir: Path) -> None:
    assert get("norms", style)[1]["blocks"] == []
    ApplyLora.execute(model, style, 0.5, 0, "report")
    blocks = {block["block"]: block for block in get("norms", style)[1]["blocks"]}
    tensors, squares = load_file(loras_dir / style), {}
    for key in tensors:
        if key.endswith(".lora_up.weight"):
            layer = key.removesuffix(".lora_up.weight")
            delta = tensors[key].double() @ tensors[f"{layer}.lora_down.weight"].double() * (2.0 / 4)
            squares.setdefault(layer, delta.square().sum())
    first = [square for layer, square in squares.items() if "_input_blocks_1_1_" in layer]
    assert blocks["input_blocks_1_1"]["layers"] == len(first)
    assert blocks["input_blocks_1_1"]["norm"] == pytest.approx(float(sum(first)) ** 0.5, rel=1e-9)
    assert sum(block["norm"] ** 2 for block in blocks.values()) == pytest.approx(float(sum(squares.values())), rel=1e-9)


def test_the_report_of_a_run_counts_the_keys_of_each_block(model: Any, style: str) -> None:
    report = ApplyLora.execute(model, style, 1, 0, "report").ui["lora_loom_reports"][0]
    assert sum(block["matched"] for block in report["blocks"]) == report["matched"]
    assert report["blocks"][0]["block"] == "input_blocks_1_1"


def test_a_preview_is_small_and_is_made_anew_when_the_picture_changes(style: str, loras_dir: Path) -> None:
    assert get("preview", style)[0] == 404
    picture(loras_dir / "style.png")
    status, made = get("preview", style)
    with Image.open(io.BytesIO(made)) as small:
        assert (status, small.format, small.size) == (200, "WEBP", (320, 160))
    picture(loras_dir / "style.png", 100)
    with Image.open(io.BytesIO(get("preview", style)[1])) as small:
        assert small.size == (100, 50)


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b""])
def test_a_bad_picture_is_told_in_one_line(style: str, loras_dir: Path, content: bytes) -> None:
    (loras_dir / "style.png").write_bytes(content)
    status, answer = get("preview", style)
    assert status == 400 and "style.png" in answer["error"] and "\n" not in answer["error"]


def write(fields: Any, **given: Any) -> tuple[int, Any]:
    return request("POST", "notes", **({"json": fields} | given))


def test_notes_are_merged_into_the_sidecar_and_lose_nothing(style: str, loras_dir: Path) -> None:
    kept = {"notes": "old", "civitai": {"id": 7, "trainedWords": ["a"]}, "favorite": True, "of another": [1, {"x": 2}]}
    sidecar = loras_dir / "style.metadata.json"
    sidecar.write_text(json.dumps(kept))
    status, answer = write({"name": style, "notes": "néw", "trigger_words": ["b", " c "]})
    assert (status, answer["notes"], answer["trigger_words"]) == (200, "néw", ["b", "c"])
    expected = kept | {"notes": "néw", "civitai": {"id": 7, "trainedWords": ["b", "c"]}}
    assert json.loads(sidecar.read_text("utf-8")) == expected
    assert sorted(path.name for path in loras_dir.iterdir()) == ["style.metadata.json", "style.safetensors"]


def test_the_limit_of_a_trigger_word_counts_characters_whatever_their_bytes(style: str, loras_dir: Path) -> None:
    word = "\u82b1" * 1_000
    status, answer = write({"name": style, "notes": "", "trigger_words": [word]})
    assert (status, answer["trigger_words"]) == (200, [word])


def test_a_new_sidecar_has_the_fields_that_its_other_readers_ask_for(style: str, loras_dir: Path) -> None:
    write({"name": style, "notes": "n", "trigger_words": []})
    fields = json.loads((loras_dir / "style.metadata.json").read_text("utf-8"))
    asked = {"file_name", "model_name", "file_path", "size", "modified", "sha256", "base_model", "preview_url"}
    assert asked <= set(fields)


@pytest.mark.parametrize("content", ["{", "[1]", '{"civitai": 5}'])
def test_a_sidecar_that_cannot_be_merged_is_left_as_it_is(style: str, loras_dir: Path, content: str) -> None:
    sidecar = loras_dir / "style.metadata.json"
    sidecar.write_text(content)
    status, answer = write({"name": style, "notes": "n", "trigger_words": []})
    assert status == 400 and "style.metadata.json" in answer["error"]
    assert sidecar.read_text() == content
    assert get("info", style)[0] == 200


BAD_NOTES = {
    "no table": [1],
    "no name": {"notes": "", "trigger_words": []},
    "notes are no text": {"name": "style", "notes": 5, "trigger_words": []},
    "words are no list": {"name": "style", "notes": "", "trigger_words": "a"},
    "an empty word": {"name": "style", "notes": "", "trigger_words": [" "]},
    "notes without end": {"name": "style", "notes": "x" * 100_001, "trigger_words": []},
}


@pytest.mark.parametrize("case", BAD_NOTES)
def test_notes_of_a_wrong_form_are_refused(style: str, loras_dir: Path, case: str) -> None:
    status, answer = write(BAD_NOTES[case])
    assert status == 400 and answer["error"]
    assert not (loras_dir / "style.metadata.json").exists()


def test_a_form_of_another_site_cannot_write(style: str, loras_dir: Path) -> None:
    body = json.dumps({"name": style, "notes": "x", "trigger_words": []})
    assert write(None, json=None, data=body, headers={"Content-Type": "text/plain"})[0] == 400
    assert not (loras_dir / "style.metadata.json").exists()


READING = ("info", "hashes", "norms", "preview")


@pytest.mark.parametrize("path", READING)
@pytest.mark.parametrize(
    "name",
    ["../outside/secret.safetensors", "..\\outside\\secret", "sub/../../outside/secret", "{outside}/secret.safetensors",
     "C:\\secret.safetensors", "secret\0.safetensors", "", "a" * 2_000, "no such file"],
)  # fmt: skip
def test_a_name_that_leaves_the_folders_is_refused(style: str, outside: Path, path: str, name: str) -> None:
    status, answer = get(path, name.replace("{outside}", str(outside)))
    assert status in (400, 404) and answer["error"]
    assert "title" not in json.dumps(answer)


@pytest.mark.parametrize("path", READING)
def test_a_link_that_leaves_the_folders_is_refused(style: str, loras_dir: Path, outside: Path, path: str) -> None:
    (loras_dir / "link.safetensors").symlink_to(outside / "secret.safetensors")
    (loras_dir / "linked").symlink_to(outside, target_is_directory=True)
    for name in ("link.safetensors", "linked/secret.safetensors"):
        status, answer = get(path, name)
        assert status == 404 and "leaves the loras folders" in answer["error"]


def test_links_that_leave_are_listed_without_what_they_hold(loras_dir: Path, outside: Path) -> None:
    (loras_dir / "link.safetensors").symlink_to(outside / "secret.safetensors")
    assert "secret" not in json.dumps(get("files")[1])


def test_a_picture_or_notes_behind_a_link_are_not_touched(style: str, loras_dir: Path, outside: Path) -> None:
    (loras_dir / "style.png").symlink_to(outside / "secret.png")
    (loras_dir / "style.metadata.json").symlink_to(outside / "secret.metadata.json")
    assert get("preview", style)[0] == 404
    assert write({"name": style, "notes": "x", "trigger_words": []})[0] == 404
    assert "secret" not in json.dumps(get("info", style)[1])
    assert (outside / "secret.metadata.json").read_text() == '{"notes": "secret"}'


def test_a_loras_folder_that_is_itself_a_link_is_followed(
    style: str, loras_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    link = tmp_path / "link to loras"
    link.symlink_to(loras_dir, target_is_directory=True)
    entry = ([str(link)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    assert get("info", style)[0] == 200
    assert get("files")[1]["files"][0]["bytes"] > 0


def test_templates_are_kept_replaced_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "templates.json"
    assert stack_templates.read_templates(file).templates == {}
    stack_templates.save_template(file, "b", "<lora:x:1>")
    stack_templates.save_template(file, "a", "")
    assert list(stack_templates.save_template(file, "b", "<lora:y:1>").templates.items()) == [
        ("a", ""),
        ("b", "<lora:y:1>"),
    ]
    assert stack_templates.remove_template(file, "a").templates == {"b": "<lora:y:1>"}


def test_templates_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    for name, rows in (("", "x"), ("a\nb", "x"), ("n" * 81, "x"), ("a", "x" * 100_001)):
        with pytest.raises(LoraError):
            stack_templates.save_template(file, name, rows)
    file.write_text("no table")
    with pytest.raises(LoraError):
        stack_templates.save_template(file, "a", "x")
    assert file.read_text() == "no table"


def test_what_takes_long_is_done_two_at_a_time_and_the_rest_is_counted() -> None:
    async def five() -> tuple[int, list[bool]]:
        work, gate = SlowWork(2), threading.Event()
        running = [asyncio.create_task(work.run(lambda _: gate.wait(10), None)) for _ in range(5)]
        while work.waiting != 3:
            await asyncio.sleep(0.01)
        gate.set()
        return work.waiting, await asyncio.gather(*running)

    assert asyncio.run(five())[1] == [True] * 5
