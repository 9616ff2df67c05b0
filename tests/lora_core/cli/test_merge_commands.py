"""`python -m lora_core merge|resize|similarity|extract|bake`: what they write and say, and how bad input ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ..adapter_files import write_adapter
from ..file_work.merge_files_for_tests import (
    PROJ,
    SHAPES,
    WIDTH,
    assert_near,
    deltas,
    kohya,
    lora_file,
    normal,
    pair,
    weighted_sum,
)
from .command_runs import Done, run_command

Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line inside this process, in a folder with two LoRA files and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    lora_file(tmp_path / "a.safetensors", 1, alpha=2.0)
    lora_file(tmp_path / "b.safetensors", 2)
    weights = {name: normal(*shape, seed=n) * 0.05 for n, (name, shape) in enumerate(SHAPES.items())}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps({name: ["F32", list(shape)] for name, shape in SHAPES.items()}))

    def run_here(line: str) -> Done:
        return run_command(capsys, line.split())

    return run_here


MODEL = "--model model.json"


def test_merge_writes_the_weighted_sum_and_says_what_it_did(run: Run, tmp_path: Path) -> None:
    done = run(f"merge out.safetensors a.safetensors=0.8 b.safetensors=-0.5 {MODEL}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 matrices, rank 6 to 6" in done.stdout and "error" in done.stdout
    files = {tmp_path / "a.safetensors": 0.8, tmp_path / "b.safetensors": -0.5}
    assert_near(deltas(tmp_path / "out.safetensors"), weighted_sum(files))
    done = run(f"merge 2.safetensors a.safetensors b.safetensors=1 --method svd --energy 0.9 --json {MODEL}")
    account = json.loads(done.stdout)
    assert account["file"] == "2.safetensors" and len(account["layers"]) == 4
    assert all(0.9 <= layer["kept_energy"] < 1.0 for layer in account["layers"])


def test_merge_has_every_method_and_option(run: Run) -> None:
    options = "--method ties --density 0.3 --layers *double_blocks.0.*=1,0 --rank 3 --to diffusers --dtype bf16"
    assert run(f"merge o.safetensors a.safetensors=1 b.safetensors=1 {options} {MODEL}").returncode == 0
    assert {t.dtype for t in load_file("o.safetensors").values()} == {torch.bfloat16}
    assert run(f"merge p.safetensors a.safetensors b.safetensors --to peft {MODEL}").returncode == 0
    assert json.loads(Path("adapter_config.json").read_text())["peft_type"] == "LORA"
    help_text = run("merge --help").stdout
    assert all(method in help_text for method in ("concat", "svd", "ties", "della-linear", "knots", "svc"))


def test_weights_of_a_checkpoint_are_read_for_dora(run: Run, tmp_path: Path) -> None:
    tensors = pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1) | {f"{kohya(PROJ)}.dora_scale": torch.ones(WIDTH, 1)}
    write_adapter(tmp_path / "d.safetensors", tensors)
    done = run(f"merge o.safetensors d.safetensors {MODEL}")
    assert done.returncode == 2 and "DoRA depends on the model's weight" in done.stderr and "--model" in done.stderr
    assert run("merge o.safetensors d.safetensors --model model.safetensors").returncode == 0
    assert run("bake b1.safetensors b2.safetensors d.safetensors").returncode == 2
    assert run("bake model.safetensors baked.safetensors d.safetensors").returncode == 0
    name = f"diffusion_model.{PROJ}.weight"
    change = load_file("baked.safetensors")[name] - load_file("model.safetensors")[name]
    assert (deltas(tmp_path / "o.safetensors")[name] - change).abs().max() < 1e-5


def test_resize_and_similarity(run: Run) -> None:
    done = run(f"resize a.safetensors out.safetensors --rank 1 {MODEL}")
    assert done.returncode == 0 and "rank 1 to 1" in done.stdout and "% of the energy kept" in done.stdout
    assert run(f"resize a.safetensors s.safetensors --size 0.001 {MODEL}").returncode == 0
    text = run(f"similarity a.safetensors b.safetensors=-1 {MODEL}").stdout
    assert "cosine" in text and "output directions" in text and "double_blocks.0: norms" in text
    account = json.loads(run(f"similarity a.safetensors a.safetensors --json {MODEL}").stdout)
    assert account["pairs"][0]["cosine"] == pytest.approx(1.0) and len(account["layers"]) == 4


def test_a_lora_goes_into_a_checkpoint_and_out_again(run: Run, tmp_path: Path) -> None:
    done = run("bake model.safetensors baked.safetensors a.safetensors=0.5 --check")
    assert done.returncode == 0
    assert "4 parameters changed, 3 copied." in done.stdout and "Read again and compared." in done.stdout
    done = run("extract model.safetensors baked.safetensors out.safetensors --rank 3 --dtype fp32")
    assert done.returncode == 0 and "4 matrices, rank 3 to 3" in done.stdout
    assert_near(deltas(tmp_path / "out.safetensors"), weighted_sum({tmp_path / "a.safetensors": 0.5}), 1e-4)
    account = json.loads(run("bake model.safetensors c.safetensors a.safetensors --json").stdout)
    assert all(one["gain"] == pytest.approx(1.0, abs=1e-4) for one in account["changed"])


BAD = {
    "merge out.safetensors gone.safetensors=1": "not there",
    "merge out.safetensors a.safetensors=much": "no number",
    "merge out.safetensors a.safetensors=nan": "finite",
    f"merge out.safetensors a.safetensors=0 b.safetensors=0 {MODEL}": "every strength is 0",
    f"merge out.safetensors a.safetensors --rank 4 {MODEL}": "the method svd cuts it",
    f"merge out.safetensors a.safetensors --method svd --rank 0 {MODEL}": "rank should be",
    f"merge out.safetensors a.safetensors --method svd --energy 2 {MODEL}": "energy should be",
    f"merge out.safetensors a.safetensors --method svd --size -1 {MODEL}": "size should be",
    f"merge out.safetensors a.safetensors --method svd --size 0.00001 {MODEL}": "too few",
    f"merge out.safetensors a.safetensors --method ties --density 0 {MODEL}": "density should be",
    f"merge out.safetensors a.safetensors --method slerp {MODEL}": "slerp merges 2 files",
    f"merge out.safetensors a.safetensors --layers nowhere=1 {MODEL}": "'nowhere'",
    f"merge out.safetensors a.safetensors --layers oops {MODEL}": "PATTERN=STRENGTH",
    f"merge a.safetensors a.safetensors {MODEL}": "is there already. Give --force",
    f"merge gone/out.safetensors a.safetensors {MODEL}": "its folder gone is not there",
    f"resize a.safetensors out.safetensors {MODEL}": "say how far to cut",
    "resize gone.safetensors out.safetensors --rank 2": "not there",
    "extract model.safetensors gone.safetensors out.safetensors --rank 2": "not there",
    "extract model.safetensors model.safetensors out.safetensors --rank 2": "nothing to write",
    "extract model.safetensors model.safetensors out.safetensors": "say how far to cut",
    "bake model.safetensors out.safetensors a.safetensors=0": "every strength is 0",
    "bake model.safetensors model.safetensors a.safetensors": "Give --force",
    f"similarity a.safetensors gone.safetensors {MODEL}": "not there",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_ends_with_2_one_line_and_no_file(run: Run, tmp_path: Path, line: str) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run(line)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert BAD[line] in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_force_replaces_a_file_even_one_that_is_read(run: Run, tmp_path: Path) -> None:
    wanted = weighted_sum({tmp_path / "a.safetensors": 2.0})
    assert run(f"merge a.safetensors a.safetensors=2 --force {MODEL}").returncode == 0
    assert_near(deltas(tmp_path / "a.safetensors"), wanted)
    assert run("bake model.safetensors model.safetensors a.safetensors --force").returncode == 0
