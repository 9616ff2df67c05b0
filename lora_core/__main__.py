"""The command line: `python -m lora_core inspect|convert|merge|...`; see --help of each."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from .cli import adapters, checkpoints
from .cli.printing import show, show_error
from .errors import LoraError
from .file_work.writing.conversion import convert
from .files.file_hashes import FileHashes, hash_file
from .files.lora_file import open_lora
from .files.metadata import read_about
from .loading.inspection import inspect_file, open_file_or_key_list, read_layout
from .names.key_dialects.spelling import SPELLINGS

BAD_INPUT = 2  # exit status


def main(arguments: list[str] | None = None) -> int:
    """Run one command. 0 on success, 2 on bad input with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except LoraError as error:
        show_error(error)
        return BAD_INPUT
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lora_core", description="Work with LoRA files without a host.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="account for every key of a LoRA file; reads headers only")
    inspect.add_argument("file", type=Path, help="LoRA file (safetensors) or key list (JSON)")
    inspect.add_argument("--model", type=Path, help="checkpoint (safetensors) or key list (JSON) to hold it against")
    inspect.add_argument("--json", action="store_true", help="print the account as JSON")
    inspect.add_argument(
        "--hash", action="store_true", help="compute the hashes (reads the whole file) and check the stored ones"
    )
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="say a LoRA file in another trainer's names, without loss")
    convert.add_argument("file", type=Path, help="LoRA file (safetensors)")
    convert.add_argument("out", type=Path, help="file to write; for peft, adapter_config.json is written beside it")
    convert.add_argument("--to", choices=sorted(SPELLINGS), required=True, help="dialect to write")
    convert.add_argument("--model", type=Path, help="checkpoint or key list of the model that the file is for")
    convert.set_defaults(run=_convert)
    adapters.add_commands(commands)
    checkpoints.add_commands(commands)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    file = open_file_or_key_list(options.file)
    layout = read_layout(options.model) if options.model else None
    report = inspect_file(file, layout)
    about = read_about(file.header.metadata)
    hashes = hash_file(options.file) if options.hash and file.has_data else None
    if options.json:
        account: dict[str, Any] = {
            **report.as_json(),
            "sha256": _sha256(options.file, hashes) if options.hash else None,
            "about": about.as_json(),
            "metadata": dict(file.header.metadata),
        }
        if hashes:
            account["hashes"] = hashes.as_json(file.header.metadata)
        print(json.dumps(account, indent=1))  # ASCII: names may hold halves of characters, which no output takes
    else:
        show(report.text([*about.lines(), *(hashes.lines(file.header.metadata) if hashes else ())]))
    return 0


def _convert(options: argparse.Namespace) -> int:
    layout = read_layout(options.model) if options.model else None
    converted = convert(open_lora(options.file), options.to, layout)
    converted.content.write(options.out)
    tensors = len(converted.content.tensors)
    show(f"{options.out.name}: {converted.layers} layers, {tensors} tensors in {options.to}'s names.")
    for note in converted.notes:
        show(f"Note: {note}.")
    for dropped in converted.dropped:
        show(f"Left out: {dropped}")
    return 0


def _sha256(path: Path, hashes: FileHashes | None) -> str:
    """Of the file; a key list, which has no tensors to hash, is small."""
    return hashes.sha256 if hashes else hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
