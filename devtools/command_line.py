"""Reads dev.py's command line and turns every ending into an exit code and at most one line on stderr."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from .failures import FAILED, CommandFailed, bad_input

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class CommandModule(Protocol):
    """A command is a module with these two functions; `run` returns the exit code."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, arguments: argparse.Namespace) -> int: ...


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    module: CommandModule


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise bad_input(f"{message} (see {self.prog} --help)")


def main(commands: Sequence[Command], argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        arguments = _parser(commands).parse_args(argv)
        return arguments.module.run(arguments)
    except CommandFailed as failure:
        return _end(failure.reason, failure.exit_code)
    except KeyboardInterrupt:
        return _end("stopped", INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader has gone: nothing more can be shown
        return FAILED
    except Exception as error:
        if os.environ.get("LORA_LOOM_DEBUG"):
            raise
        return _end(f"{type(error).__name__}: {error} (LORA_LOOM_DEBUG=1 shows where)", FAILED)


def _parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    parser = OneLineParser(prog="dev.py", description="LoRA Loom's developer commands.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in commands:
        subparser = subparsers.add_parser(command.name, help=command.help, description=_sentence(command.help))
        command.module.add_arguments(subparser)
        subparser.set_defaults(module=command.module)
    return parser


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _raise_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt  # so that `finally` blocks stop what was started


def _end(reason: str, exit_code: int) -> int:
    sys.stdout.flush()
    print("dev.py:", " ".join(reason.split()), file=sys.stderr)
    return exit_code
