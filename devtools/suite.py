"""The `test` command: lint, the tests that need no host, then the host tests once per ComfyUI present."""

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import lint
from .browser import ensure_browser
from .environment import ensure_setup, node_in_venv
from .failures import bad_input
from .hosts import Host, bundled_host, current_host
from .layout import ROOT, TEST_WORK, VENV_PYTHON
from .programs import program_environment, stream
from .results import Results, from_junit, from_tap, total
from .stages import say, stage

TESTS = ROOT / "tests"
HOST_FOLDERS = ("oracle", "e2e", "nodes")  # of tests/: run once per host, the longest files first
MOST_WORKERS = 8  # each holds a host and its models: about 1.5 GB
ONCE = ("-m", "not once")  # what would be the same on another host runs on the last one
NO_CURRENT_HOST = "no current ComfyUI was found (COMFYUI_PATH, the folders around this pack, ~/comfy/ComfyUI)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-k", metavar="EXPR", help="only tests whose names match, as pytest's -k")
    parser.add_argument("--no-lint", action="store_true", help="leave out ruff and pyright")
    parser.add_argument("pytest", nargs="*", metavar="-- PATH OR PYTEST OPTION", help="handed to pytest")


def run(arguments: argparse.Namespace) -> int:
    options = [*arguments.pytest, *(["-k", arguments.k] if arguments.k else [])]
    paths, options = _split(options)
    current = current_host()
    with stage("setup"):
        ensure_setup()
    if not paths:
        ensure_browser()
    hosts = [bundled_host(), *([current] if current else [])]
    TEST_WORK.mkdir(exist_ok=True)
    results = [] if arguments.no_lint else [Results("lint", failed=tuple(lint.failed_tools()))]
    if not paths and not options:
        results += _web_tests()
    results += _python_tests(hosts, paths, options)
    return _report(results, hosts)


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """pytest's arguments: those that name something in tests/, and the others."""
    paths: list[Path] = []
    options: list[str] = []
    for argument in arguments:
        file = (Path.cwd() / argument.split("::")[0]).resolve()
        if not argument.startswith("-") and file.exists() and file.is_relative_to(TESTS):
            paths.append(file.parent / (file.name + argument.removeprefix(argument.split("::")[0])))
        elif argument.endswith(".py") or ".py::" in argument:
            raise bad_input(f"{argument}: no such test file")
        else:
            options.append(argument)
    return paths, options


def _python_tests(hosts: Sequence[Host], paths: Sequence[Path], options: Sequence[str]) -> list[Results]:
    inside = [path for path in paths if _needs_host(path)]
    outside = [path for path in paths if path not in inside]
    results: list[Results] = []
    if outside or not paths:
        ignored = [f"--ignore={TESTS / folder}" for folder in HOST_FOLDERS]
        results.append(_pytest("tests without a server", hosts[0], [*(outside or [TESTS]), *ignored, *options]))
    if TESTS in paths:
        inside = []
    if inside or not paths or TESTS in paths:
        folders = [TESTS / folder for folder in HOST_FOLDERS if (TESTS / folder).is_dir()]
        for host in hosts:
            skipped = ONCE if host is not hosts[-1] and not paths and not options else ()
            results.append(_pytest(f"ComfyUI {host.version}", host, [*(inside or folders), *skipped, *options]))
    return results


def _needs_host(path: Path) -> bool:
    return any(path.is_relative_to(TESTS / folder) for folder in HOST_FOLDERS)


def _pytest(title: str, host: Host, arguments: Sequence[str | Path]) -> Results:
    junit = TEST_WORK / f"{title.replace(' ', '_')}.xml"
    junit.unlink(missing_ok=True)
    with stage(title):
        command = [VENV_PYTHON, "-m", "pytest", f"--junitxml={junit}", "--quiet", *_in_parallel(arguments), *arguments]
        exit_code = stream(command, program_environment(COMFYUI_PATH=str(host.path), **_threads()))
    return from_junit(title, junit, exit_code)


def _in_parallel(arguments: Sequence[str | Path]) -> list[str]:
    """One worker a core, each with whole files, which share servers and models; as asked where a person says how."""
    if any(str(argument).startswith(("-n", "--pdb", "-x")) for argument in arguments):
        return []
    return ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "loadfile", "--no-loadscope-reorder"]


def _threads() -> dict[str, str]:
    """One thread a worker, so that they don't wait for each other; a person's own choice stands."""
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}


def _web_tests() -> list[Results]:
    files = sorted(file for file in (TESTS / "web").rglob("*test*") if file.suffix in (".js", ".mjs"))
    if not files:
        return []
    node = shutil.which("node") or node_in_venv()
    if node is None:
        return [Results("web", skipped=("tests/web: node is not installed",))]
    with stage("web tests"):
        command = [str(node), "--test", "--test-reporter=tap", *map(str, files)]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", errors="replace")
        (TEST_WORK / "web.tap").write_text(answer.stdout, encoding="utf-8")
        results = from_tap("web", answer.stdout, answer.returncode)
        say(f"   {results.line()}" if not results.failed else answer.stdout + answer.stderr)
    return [results]


def _version_of_venv() -> str:
    """Of the Python that ran the tests, and of the torch in it."""
    ask = "import platform, torch; print(f'{platform.python_version()}, torch {torch.__version__}')"
    answer = subprocess.run([str(VENV_PYTHON), "-c", ask], capture_output=True, text=True, env=program_environment())
    return answer.stdout.strip() or "unknown"


def _report(results: list[Results], hosts: Sequence[Host]) -> int:
    """The closing lines; the last one is the total. 1 on any failure, or if nothing ran."""
    summary = total(results)
    say(f"{os.linesep}== results")
    for result in results:
        say(f"{result.stage}: {result.line() if result.stage != 'lint' else ('failed' if result.failed else 'clean')}")
    say(f"Python {_version_of_venv()}")
    say(f"hosts: {', '.join(map(str, hosts))}" + ("" if len(hosts) > 1 else f"; {NO_CURRENT_HOST}"))
    for name in summary.skipped:
        say(f"skipped: {name}")
    for name in summary.failed:
        say(f"failed: {name}")
    if not summary.passed and not summary.failed:
        say("no test ran")
    say(summary.line())
    return 1 if summary.failed or not summary.passed else 0
