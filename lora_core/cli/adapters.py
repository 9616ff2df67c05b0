"""The commands that make an adapter file of others: merge, resize, similarity."""

import argparse
import json
from pathlib import Path

from ..file_work.merging.layer_deltas import MergeSettings
from ..file_work.merging.merge_files import LayerStrengths, MergeOrder, merge_files
from ..file_work.merging.methods import METHODS
from ..file_work.resizing import resize
from ..file_work.similarity import similarity
from ..file_work.writing.new_adapter import NewAdapter
from ..file_work.writing.target_check import check_out
from ..files.lora_file import open_lora
from .given import (
    Commands,
    add_limits,
    add_model,
    add_output,
    add_size,
    dtype_of,
    limits_of,
    model_of_options,
    size_of,
    source,
)
from .printing import show, show_progress

METHODS_HELP = "Methods:\n" + "\n".join(f"  {name:13} {method.about}" for name, method in METHODS.items())


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    merge = commands.add_parser(
        "merge",
        help="merge LoRA files into one, exactly or to a rank",
        epilog=METHODS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    merge.add_argument("out", type=Path, help="file to write")
    merge.add_argument("files", nargs="+", metavar="FILE=STRENGTH", help="LoRA file and its strength; 1 if not given")
    merge.add_argument("--method", choices=list(METHODS), default="concat", help="see below; concat if not given")
    add_limits(merge)
    add_size(merge)
    merge.add_argument("--density", type=float, default=0.5, help="share of entries that ties, dare and others keep")
    merge.add_argument("--spread", type=float, default=0.1, help="of della's keep probabilities around the density")
    merge.add_argument("--seed", type=int, default=0, help="of what dare and della drop")
    merge.add_argument(
        "--layers",
        action="append",
        default=[],
        metavar="PATTERN=S[,S...]",
        help="strengths of some layers, times the files': a path with * and ?, one number for each file or one for all",
    )
    add_model(merge)
    add_output(merge)
    merge.set_defaults(run=_merge)
    shrink = commands.add_parser("resize", help="cut the ranks of a LoRA file with the least error there is")
    shrink.add_argument("file", type=Path, help="LoRA file (safetensors)")
    shrink.add_argument("out", type=Path, help="file to write")
    add_limits(shrink)
    add_size(shrink)
    add_model(shrink)
    add_output(shrink)
    shrink.set_defaults(run=_resize)
    alike = commands.add_parser("similarity", help="how alike LoRA files are, and where they work against each other")
    alike.add_argument("files", nargs="+", metavar="FILE=STRENGTH", help="LoRA file and its strength; 1 if not given")
    add_model(alike)
    alike.add_argument("--json", action="store_true", help="print every layer as JSON")
    alike.set_defaults(run=_similarity)


def _merge(options: argparse.Namespace) -> int:
    check_out(options.out, replace=options.force, configured=options.to == "peft")
    layout, read = model_of_options(options)
    order = MergeOrder(
        method=options.method,
        settings=MergeSettings(density=options.density, spread=options.spread, seed=options.seed),
        limits=limits_of(options),
        size=size_of(options),
        layers=[LayerStrengths.parse(text) for text in options.layers],
        dialect=options.to,
        dtype=dtype_of(options),
    )
    merged = merge_files([source(text) for text in options.files], order, layout, read=read, progress=show_progress)
    return finish(merged, options)


def _resize(options: argparse.Namespace) -> int:
    check_out(options.out, replace=options.force, configured=options.to == "peft")
    layout, read = model_of_options(options)
    resized = resize(
        open_lora(options.file),
        limits_of(options),
        layout,
        size=size_of(options),
        dialect=options.to,
        dtype=dtype_of(options),
        read=read,
        progress=show_progress,
    )
    return finish(resized, options)


def _similarity(options: argparse.Namespace) -> int:
    layout, read = model_of_options(options)
    report = similarity([source(text) for text in options.files], layout, read=read, progress=show_progress)
    show(json.dumps(report.as_json(), indent=1) if options.json else "\n".join(report.lines()))
    return 0


def finish(made: NewAdapter, options: argparse.Namespace) -> int:
    """Write a file and tell what became of its layers."""
    made.write(options.out, replace=options.force)
    if options.json:
        show(json.dumps({"file": options.out.name, **made.as_json()}, indent=1))
    else:
        show("\n".join([f"{options.out.name}:", *made.lines()]))
    return 0
