"""Whatever a file holds, `inspect` ends with 0 or 2 and accounts for every key; bad layers are told with a reason."""

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_pack.lora_core import LoraError
from lora_pack.lora_core.__main__ import main
from lora_pack.lora_core.files.metadata import read_about
from lora_pack.lora_core.files.safetensors_header import DTYPES
from lora_pack.lora_core.names.key_dialects import PARAMETERS, PREFIXES
from lora_pack.lora_core.names.key_dialects.spelling import SPELLINGS

from ..adapter_files import TINY_SHAPES, load, pair, tiny_layout, write_adapter, write_header

QUICK = settings(
    derandomize=True,  # the same examples on every machine
    max_examples=250,
    deadline=None,  # no test looks at the clock
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
MODEL = {name: ["F16", list(shape)] for name, shape in TINY_SHAPES.items()}
LAYER = "lora_unet_input_blocks_1_1_proj_in"  # [6, 4, 1, 1]
LAYERS = (
    "input_blocks_1_1_proj_in",
    "input_blocks.1.1.proj_in",
    "input_blocks_1_0_in_layers_2",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
    "down_blocks_0_attentions_0_proj_in",
    "text_model_encoder_layers_0_mlp_fc1",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
sides = st.integers(0, 9) | st.sampled_from([768, 2**31, 2**62, 2**64, -1])
shapes = st.lists(sides, max_size=5)
known_keys = st.builds(
    lambda prefix, layer, parameter: prefix + layer + parameter,
    st.sampled_from([prefix.text for prefix, _ in PREFIXES]),
    st.sampled_from(LAYERS) | st.text(max_size=6),
    st.sampled_from([parameter.text for parameter, _ in PARAMETERS]) | st.text(max_size=6),
)
keys = known_keys | st.text(max_size=20)
dtypes = st.sampled_from(sorted(DTYPES))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "model.json").write_text(json.dumps(MODEL))
        yield Path(name)


def _run(*arguments: object) -> str | None:
    """What a command printed, or None if it ended with 2 and one line of reason; any other ending fails."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main([str(argument) for argument in arguments])
    (out.getvalue() + errors.getvalue()).encode("utf-8")  # an output takes it
    if status == 2:
        assert (out.getvalue(), errors.getvalue().count("\n")) == ("", 1)
        assert len(errors.getvalue()) > 10
        return None
    assert (status, errors.getvalue()) == (0, "")
    return out.getvalue()


def _inspect(*arguments: object) -> dict[str, Any] | None:
    """The account, or None for a file that can't be used."""
    _run("inspect", *arguments)
    printed = _run("inspect", *arguments, "--json")
    if printed is None:
        return None
    account = json.loads(printed)
    assert account["keys"] == account["matched"] + len(account["ignored"]) + len(account["unmatched"])
    assert all(note["reason"] for note in account["ignored"] + account["unmatched"])
    return account


def _file(folder: Path, header: object, data: bytes = b"") -> Path:
    return write_header(folder / "a.safetensors", header, data)


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_file(folder: Path, content: bytes) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    _inspect(path, "--hash")
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    _inspect(path)
    list_path = folder / "list.json"
    list_path.write_bytes(content)
    _inspect(list_path)
    _inspect(folder / "model.json", "--model", list_path)


@QUICK
@given(header=json_values, data=st.binary(max_size=8))
def test_any_json_as_a_header_or_a_key_list(folder: Path, header: Any, data: bytes) -> None:
    _inspect(_file(folder, header, data))
    path = folder / "list.json"
    path.write_text(json.dumps(header))
    _inspect(path)
    _inspect(folder / "model.json", "--model", path)


@QUICK
@given(
    header=st.dictionaries(
        keys | st.just("__metadata__"),
        st.fixed_dictionaries(
            {
                "dtype": dtypes | json_values,
                "shape": shapes | json_values,
                "data_offsets": st.just([0, 4]) | json_values,
            }
        )
        | json_values,
        max_size=4,
    )
)
def test_any_entries_in_a_header(folder: Path, header: dict[str, Any]) -> None:
    _inspect(_file(folder, header, b"\0" * 4))
    _inspect(_file(folder, header, b"\0" * 4), "--model", folder / "model.json")


@QUICK
@given(listed=st.dictionaries(keys, st.tuples(dtypes, shapes) | json_values, max_size=6))
def test_any_names_and_shapes_in_a_key_list(folder: Path, listed: dict[str, Any]) -> None:
    path = folder / "list.json"
    path.write_text(json.dumps(listed))
    _inspect(path)
    _inspect(path, "--model", folder / "model.json")
    _inspect(folder / "model.json", "--model", path)


complete_layers = st.builds(
    lambda rank, dtype, alpha: {
        f"{LAYER}.lora_down.weight": (dtype, [rank, 4]),
        f"{LAYER}.lora_up.weight": (dtype, [6, rank]),
        **({f"{LAYER}.alpha": (dtype, [])} if alpha else {}),
    },
    st.integers(0, 5),
    dtypes,
    st.booleans(),
)
loose_tensors = st.dictionaries(
    keys.filter(lambda key: key != "__metadata__"),
    st.tuples(dtypes, st.lists(st.integers(0, 7), max_size=4)),
    max_size=8,
)
whole_files = loose_tensors | st.builds(lambda layer, more: {**more, **layer}, complete_layers, loose_tensors)


def _whole_file(folder: Path, tensors: Mapping[str, Any], filling: bytes, metadata: Mapping[str, Any]) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for key, (dtype, shape) in tensors.items():
        end = position + math.prod(shape) * DTYPES[dtype].itemsize
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    return _file(folder, header, (filling * (position // len(filling) + 1))[:position])


@QUICK
@given(
    tensors=whole_files,
    filling=st.binary(min_size=1, max_size=16),
    metadata=st.dictionaries(st.text(max_size=8), json_values, max_size=2),
)
def test_any_names_shapes_and_values_in_a_whole_file(
    folder: Path, tensors: dict[str, Any], filling: bytes, metadata: dict[str, Any]
) -> None:
    path = _whole_file(folder, tensors, filling, metadata)
    if not all(isinstance(value, str) for value in metadata.values()):
        assert _inspect(path) is None
        return
    assert _inspect(path) is not None
    assert _inspect(path, "--model", folder / "model.json") is not None
    with contextlib.suppress(LoraError):  # a file for another family is refused
        load(path, tiny_layout())


@QUICK
@given(tensors=whole_files, to=st.sampled_from(sorted(SPELLINGS)), with_model=st.booleans())
def test_any_whole_file_is_converted_or_refused(
    folder: Path, tensors: dict[str, Any], to: str, with_model: bool
) -> None:
    path = _whole_file(folder, tensors, b"\x01", {})
    model = ["--model", folder / "model.json"] if with_model else []
    if _run("convert", path, folder / "out.safetensors", "--to", to, *model) is not None:
        assert _inspect(folder / "out.safetensors") is not None


FIELDS = ("ss_tag_frequency", "ss_dataset_dirs", "ss_datasets", "ss_network_args", "modelspec.thumbnail")


@QUICK
@given(metadata=st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=20) | json_values.map(json.dumps)))
def test_any_metadata(metadata: Mapping[str, str]) -> None:
    about = read_about(metadata)
    json.dumps(about.as_json(), allow_nan=False)
    assert all("\n" not in line for line in about.lines())
    assert set(about.unreadable) <= set(metadata)


GOOD = pair(LAYER, 6, 4)
LOKR = f"{LAYER}.lokr_"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (GOOD | {f"{LAYER}.alpha": torch.tensor(math.nan)}, "NaN or infinite"),
        (GOOD | {f"{LAYER}.alpha": torch.tensor(-math.inf)}, "NaN or infinite"),
        (GOOD | {f"{LAYER}.alpha": torch.tensor(1e30)}, "alpha"),
        (GOOD | {f"{LAYER}.alpha": torch.tensor(-1e300, dtype=torch.float64)}, "alpha"),
        (GOOD | {f"{LAYER}.alpha": torch.tensor(2**62)}, "alpha"),
        (GOOD | {f"{LAYER}.alpha": torch.ones(2)}, "alpha should be one number"),
        (GOOD | {f"{LAYER}.alpha": torch.ones(0)}, "alpha should be one number"),
        (GOOD | {f"{LAYER}.lora_up.weight": torch.ones(6, 3)}, "shape mismatch"),
        (GOOD | {f"{LAYER}.lora_up.weight": torch.ones(6)}, "2 sides"),
        (GOOD | {f"{LAYER}.lora_down.weight": torch.ones(0, 4)}, "rank 0"),
        (GOOD | {f"{LAYER}.lora_mid.weight": torch.ones(2, 3, 1, 1)}, "shape mismatch"),
        ({f"{LOKR}w1": torch.ones(2, 2), f"{LOKR}w2": torch.ones(2, 2)}, "shape mismatch"),
        ({f"{LOKR}w1": torch.ones(5, 1), f"{LOKR}w2": torch.ones(1, 4)}, "shape mismatch"),
        ({f"{LOKR}w1": torch.ones(2, 2), f"{LOKR}w2_a": torch.ones(3, 2), f"{LOKR}w2_b": torch.ones(3, 2)}, "shape"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_layer_that_is_wrong_is_unmatched_with_the_reason(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout()).report
    assert (report.layers, len(report.unmatched)) == (0, len(tensors))
    assert all(reason in note.reason for note in report.unmatched)


def test_a_negative_alpha_turns_the_layer_round(tmp_path: Path) -> None:
    turned = load(
        write_adapter(tmp_path / "a.safetensors", GOOD | {f"{LAYER}.alpha": torch.tensor(-2.0)}), tiny_layout()
    )
    plain = load(write_adapter(tmp_path / "b.safetensors", GOOD), tiny_layout())
    weight = torch.zeros(6, 4, 1, 1)
    assert torch.equal(turned.adapters[0].adapter.delta_of(weight), -plain.adapters[0].adapter.delta_of(weight))


def test_a_layer_of_rank_0_is_not_converted(folder: Path) -> None:
    tensors = {f"{LAYER}.lora_down.weight": torch.ones(0, 4), f"{LAYER}.lora_up.weight": torch.ones(6, 0)}
    path = write_adapter(folder / "empty.safetensors", tensors)
    command = ("convert", path, folder / "out.safetensors", "--to", "diffusers", "--model", folder / "model.json")
    assert _run(*command) is None
