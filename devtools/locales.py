"""`python -m devtools.locales`: writes locales/en from the nodes' schemas, and says which translations are stale."""

import argparse
import sys
from collections.abc import Sequence

from .environment import ensure_setup
from .hosts import bundled_host
from .layout import VENV_PYTHON
from .locale_texts import ENGLISH, MARKS, TEXTS, languages, marks_of, read, stale, write
from .programs import program_environment, stream
from .stages import say


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.locales", description=__doc__)
    parser.add_argument(
        "--agreed", metavar="LANGUAGE", action="append", default=[],
        help="note that every text of this language says what the English says now; after reading them",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    unknown = [language for language in arguments.agreed if language not in languages()]
    if unknown:
        print(f"devtools.locales: no texts in {', '.join(unknown)}", file=sys.stderr)
        return 2
    ensure_setup()
    host = bundled_host()
    command = [VENV_PYTHON, "-m", "devtools.write_english"]
    if stream(command, program_environment(COMFYUI_PATH=str(host.path))) != 0:
        return 1
    english = read(ENGLISH, TEXTS)
    for language in arguments.agreed:
        write(language, MARKS, marks_of(english))
    left = {language: stale(language, english) for language in languages() if language != ENGLISH}
    for language, places in left.items():
        say(f"{language}: {len(places)} texts to look at")
        for place in places:
            say(f"   {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
