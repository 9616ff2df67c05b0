"""Reads what several commands are given: files with strengths, limits on rank, sizes, and the model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadSetting
from ..file_work.deltas.rank_limits import MIB, RankLimits
from ..file_work.sources import Source
from ..files.dtypes import DTYPES
from ..files.lora_file import open_lora
from ..loading.checkpoint import Checkpoint
from ..loading.inspection import read_layout
from ..names.key_dialects.spelling import SPELLINGS
from ..names.target_layer import ModelLayout

Commands = Any  # argparse has no public name for what add_subparsers returns


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options that limit the rank of a layer."""
    parser.add_argument("--rank", type=int, help="keep at most this rank")
    parser.add_argument("--energy", type=float, help="keep this share of each layer's squared norm, such as 0.99")
    parser.add_argument(
        "--max-error", type=float, dest="error", help="|delta - kept| / |delta| of each layer, such as 0.05"
    )
    parser.add_argument("--max-frobenius", type=float, dest="frobenius", help="|delta - kept| of each layer itself")
    parser.add_argument("--ratio", type=float, help="keep singular values of at least the largest one divided by this")


def limits_of(options: argparse.Namespace) -> RankLimits:
    """The limits that were given. Raises BadSetting."""
    return RankLimits(
        rank=options.rank,
        energy=options.energy,
        error=options.error,
        frobenius=options.frobenius,
        ratio=options.ratio,
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options of commands that write an adapter."""
    parser.add_argument("--to", choices=sorted(SPELLINGS), help="dialect to write; the first file's if not given")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the numbers written; the files' if not given")
    parser.add_argument("--force", action="store_true", help="replace a file of the same name")
    parser.add_argument("--json", action="store_true", help="print what became of every layer as JSON")


def add_size(parser: argparse.ArgumentParser) -> None:
    """The option that limits the whole file."""
    parser.add_argument(
        "--size", type=float, help="MiB for the matrices of the file; each layer gets a rank of its own"
    )


def size_of(options: argparse.Namespace) -> int | None:
    """The size in bytes. Raises BadSetting."""
    if options.size is None:
        return None
    if not 0 < options.size < float("inf"):
        raise BadSetting(f"size should be above 0 MiB, but is {options.size:g}")
    return round(options.size * MIB)


def dtype_of(options: argparse.Namespace) -> torch.dtype | None:
    """The dtype to write, None for the files' own."""
    return DTYPES[options.dtype] if options.dtype else None


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option for the model that files are for."""
    parser.add_argument(
        "--model",
        type=Path,
        help="checkpoint or key list of the model; a checkpoint's weights are read for DoRA and others that need them",
    )


def model_of_options(options: argparse.Namespace) -> tuple[ModelLayout | None, Callable[[str], Tensor] | None]:
    """The model's layers, and what reads its weights where it is a checkpoint."""
    if options.model is None:
        return None, None
    layout = read_layout(options.model)
    if options.model.suffix.lower() == ".json":
        return layout, None
    return layout, Checkpoint.open(options.model).read


def source(text: str) -> Source:
    """FILE=STRENGTH or FILE. Raises BadSetting, or FileError from open_lora."""
    path, equals, number = text.rpartition("=")
    if not equals or (not Path(path).exists() and Path(text).exists()):
        return Source(open_lora(Path(text)))
    try:
        return Source(open_lora(Path(path)), float(number))
    except ValueError:
        raise BadSetting(f"'{text}' should be FILE=STRENGTH, and '{number}' is no number") from None
