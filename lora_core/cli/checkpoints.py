"""The commands that read whole checkpoints: extract, bake."""

import argparse
import json
from pathlib import Path

import torch

from ..file_work.baking import Baking
from ..file_work.extraction import extract
from ..file_work.writing.target_check import check_out
from ..loading.checkpoint import Checkpoint
from .adapters import finish
from .given import Commands, add_limits, add_output, dtype_of, limits_of, source
from .printing import show, show_progress


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    take = commands.add_parser("extract", help="make a LoRA of the difference of two checkpoints")
    take.add_argument("base", type=Path, help="checkpoint as it was (safetensors)")
    take.add_argument("tuned", type=Path, help="checkpoint as it is to become")
    take.add_argument("out", type=Path, help="file to write")
    add_limits(take)
    take.add_argument(
        "--cut-noise", action="store_true", help="leave out what the checkpoints' own rounding could have made"
    )
    add_output(take)
    take.set_defaults(run=_extract)
    bake = commands.add_parser("bake", help="write LoRA files into the weights of a checkpoint")
    bake.add_argument("checkpoint", type=Path, help="checkpoint (safetensors)")
    bake.add_argument("out", type=Path, help="checkpoint to write")
    bake.add_argument("files", nargs="+", metavar="FILE=STRENGTH", help="LoRA file and its strength; 1 if not given")
    bake.add_argument("--check", action="store_true", help="read the written file again and compare it")
    bake.add_argument("--force", action="store_true", help="replace a file of the same name")
    bake.add_argument("--json", action="store_true", help="print what became of every parameter as JSON")
    bake.set_defaults(run=_bake)


def _extract(options: argparse.Namespace) -> int:
    check_out(options.out, replace=options.force, configured=options.to == "peft")
    extracted = extract(
        Checkpoint.open(options.base),
        Checkpoint.open(options.tuned),
        limits_of(options),
        dialect=options.to or "kohya",
        dtype=dtype_of(options) or torch.float16,
        cut_noise=options.cut_noise,
        progress=show_progress,
    )
    return finish(extracted, options)


def _bake(options: argparse.Namespace) -> int:
    check_out(options.out, replace=options.force)
    baking = Baking(Checkpoint.open(options.checkpoint), [source(text) for text in options.files])
    report = baking.write(options.out, replace=options.force, progress=show_progress)
    if options.check:
        report = baking.check(Checkpoint.open(options.out), show_progress)
    if options.json:
        show(json.dumps({"file": options.out.name, "checked": options.check, **report.as_json()}, indent=1))
    else:
        show(
            "\n".join(
                [f"{options.out.name}:", *report.lines(), *(["Read again and compared."] if options.check else [])]
            )
        )
    return 0
