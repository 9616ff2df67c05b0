"""Reads one metadata value that should be JSON; some trainers wrote Python's own spelling of it instead."""

import ast
import json
import re
import warnings
from typing import Any, cast

REPR_AT_MOST = 16_384  # characters; a longer Python spelling is no list of options
DEPTH_AT_MOST = 20  # levels of containers
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
PLAIN = re.compile(r"[\w\s.,:{}\[\]()+-]*")
# Signs that are more than a number's own: such as 1+1+1 and --1, of which a long row is a deep tree.
SIGNS = re.compile(r"[+-]\s*[+-]|[\w)\]}]\s+[+-]|[^\WeE][+-]|[)\]}][+-]|(?<![\d.])[eE][+-]")


class Unreadable(ValueError):
    """The reason why a value can't be read."""


def read_value(text: str) -> object:
    """The value that a text spells, as JSON or as a Python literal ({'conv_dim': 1}). Raises Unreadable."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _read_literal(text)


def read_table(text: str) -> dict[str, Any]:
    """As read_value, of a table with names. Raises Unreadable."""
    value = read_value(text)
    if not isinstance(value, dict):
        raise Unreadable("no table")
    return {str(name): entry for name, entry in cast("dict[Any, Any]", value).items()}


def _is_shallow(text: str) -> bool:
    """Whether only numbers, texts, names and a few levels of containers are in it: deep ones overflow small stacks."""
    plain = QUOTED.sub("0", text)
    if not PLAIN.fullmatch(plain) or SIGNS.search(plain):
        return False
    depth = 0
    for character in plain:
        depth += (character in "([{") - (character in ")]}")
        if not 0 <= depth <= DEPTH_AT_MOST:
            return False
    return True


def _read_literal(text: str) -> object:
    """literal_eval builds numbers, texts and containers only: it looks nothing up and calls nothing."""
    if len(text) > REPR_AT_MOST or not _is_shallow(text):
        raise Unreadable("no JSON")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a file is no news for whoever runs Python
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Unreadable("neither JSON nor a Python literal") from None
