"""`python -m lora_core inspect` accounts for every key, and bad input ends with 2 and one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ..adapter_files import pair, read_list, write_adapter
from .command_runs import Done, run_command

ROOT = Path(__file__).parents[3]


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line inside this process, which spares a start of torch."""

    def run_here(*arguments: object) -> Done:
        return run_command(capsys, [str(argument) for argument in arguments])

    return run_here


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lora_core", "inspect", str(tmp_path / "gone.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def _json_list(name: str, folder: Path) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(read_list(name)))
    return path


def test_the_account_as_json_has_every_field_of_the_contract(run: Run, tmp_path: Path) -> None:
    adapter = _json_list("sdxl_kohya_lora_sdscripts", tmp_path)
    done = run("inspect", adapter, "--model", _json_list("base_sdxl_unet_comfy", tmp_path), "--json")
    account = json.loads(done.stdout)
    assert done.returncode == 0
    assert account["sha256"] is None
    assert (account["dialect"], account["family"], account["targets"]) == ("kohya", "SDXL", 722)
    assert account["keys"] == account["matched"] + len(account["ignored"]) + len(account["unmatched"]) == 2958
    assert account["rank"] == {"min": 8, "max": 8}
    assert account["metadata"] == {}


def test_a_file_and_its_hash(run: Run, tmp_path: Path) -> None:
    import hashlib

    path = write_adapter(tmp_path / "a.safetensors", pair("lora_unet_conv_in", 8, 4, alpha=1.0), {"ss_x": "y"})
    account = json.loads(run("inspect", path, "--json", "--hash").stdout)
    assert account["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert account["metadata"] == {"ss_x": "y"}


def test_what_the_file_says_of_itself_and_its_hashes(run: Run, tmp_path: Path) -> None:
    said = {"ss_output_name": "ink", "sshs_model_hash": "ab" * 32}
    path = write_adapter(tmp_path / "a.safetensors", pair("lora_unet_conv_in", 8, 4, alpha=1.0), said)
    account = json.loads(run("inspect", path, "--json", "--hash").stdout)
    assert account["about"]["output_name"] == "ink"
    assert account["hashes"]["sha256"] == account["sha256"]
    assert [stored["agrees"] for stored in account["hashes"]["stored"]] == [False]
    text = run("inspect", path, "--hash").stdout
    assert "Title: ink" in text
    assert "Stored hash sshs_model_hash is not the file's" in text
    assert "hashes" not in json.loads(run("inspect", path, "--json").stdout)


def test_a_key_list_has_a_hash_and_no_tensors_to_hash(run: Run, tmp_path: Path) -> None:
    account = json.loads(run("inspect", _json_list("sd15_peft_lora", tmp_path), "--json", "--hash").stdout)
    assert len(account["sha256"]) == 64
    assert "hashes" not in account


def test_control_characters_of_a_file_do_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    said = {"modelspec.title": "\x1b[2Jgone", "modelspec.author": "\u202eevil"}
    path = write_adapter(tmp_path / "a.safetensors", {"\x1b]0;title\x07": torch.zeros(1)}, said)
    text = run("inspect", path).stdout
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert r"\x1b[2Jgone" in text


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_models_keys_may_carry_any_prefix(run: Run, tmp_path: Path, prefix: str) -> None:
    listed = {
        key.replace("diffusion_model.", prefix): value for key, value in read_list("base_sd15_unet_comfy").items()
    }
    model = tmp_path / "model.json"
    model.write_text(json.dumps(listed))
    adapter = _json_list("sd15_diffusers_unet_lora_AB", tmp_path)
    assert json.loads(run("inspect", adapter, "--model", model, "--json").stdout)["targets"] == 128


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04rest", b"\0" * 20, b"{}"])
def test_bad_input_ends_with_2_and_one_line(run: Run, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    done = run("inspect", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "listed", [{"a": {"x": None, "y": None}}, {"a": []}, {"a": ["F16", [2**60, 2**60]]}, {"a": 5}, []]
)
def test_a_key_list_that_is_none_ends_with_2(run: Run, tmp_path: Path, listed: object) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(listed))
    assert (run("inspect", path).returncode, run("inspect", path).stderr.count("\n")) == (2, 1)


def test_bad_arguments_end_with_2(run: Run) -> None:
    assert run("inspect").returncode == 2
    assert run("rewrite", "a").returncode == 2


def test_help_ends_with_0(run: Run) -> None:
    assert run("--help").returncode == 0
    assert run("inspect", "--help").returncode == 0
