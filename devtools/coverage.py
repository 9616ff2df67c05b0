"""`python -m devtools.coverage`: writes docs/coverage.md, our account of every recorded key list beside the host's."""

import argparse
import sys
from collections.abc import Sequence

from .environment import ensure_setup
from .failures import CommandFailed
from .hosts import bundled_host, current_host
from .layout import BENCH_WORK, ROOT, VENV_PYTHON, shown
from .programs import program_environment, stream
from .stages import say, stage

TABLE = ROOT / "docs" / "coverage.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark `coverage` on the person's own ComfyUI, or on that of the tests. 0 when the page is written."""
    parser = argparse.ArgumentParser(prog="python -m devtools.coverage", description=__doc__)
    parser.add_argument(
        "--bundled", action="store_true", help="use the ComfyUI of the tests, also where there is another"
    )
    arguments = parser.parse_args(argv)
    try:
        ensure_setup()
        host = (None if arguments.bundled else current_host()) or bundled_host()
        BENCH_WORK.mkdir(exist_ok=True)
        rows = BENCH_WORK / "coverage.json"
        command = [VENV_PYTHON, "-m", "benchmarks.coverage", "--json", rows, "--table", TABLE]
        with stage(f"coverage beside {host}"):
            if stream(command, program_environment(COMFYUI_PATH=str(host.path))) != 0:
                raise CommandFailed("the table was not written")
    except CommandFailed as failure:
        print("devtools.coverage:", failure.reason, file=sys.stderr)
        return failure.exit_code
    say(f"table: {shown(TABLE)}; rows: {shown(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
