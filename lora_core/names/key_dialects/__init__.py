"""How trainers spell keys: one trainer per file, joined here into the tables that key_map looks things up in.

A key is <prefix><layer name><parameter>. The three are written independently of each other, so they are three tables.
"""

from collections.abc import Sequence

from . import cloneofsimo, comfy, diffusers, kohya, lycoris, peft, xlabs
from .dialect import Dialect, Ignored, Parameter, Prefix

DIALECTS: Sequence[Dialect] = (
    kohya.DIALECT,
    comfy.DIALECT,
    diffusers.DIALECT,
    peft.DIALECT,
    lycoris.DIALECT,
    xlabs.DIALECT,
    cloneofsimo.DIALECT,
)

# Longest first, so that "lora_te1_" is tried before "lora_te_", and "" last.
PREFIXES: Sequence[tuple[Prefix, Dialect]] = sorted(
    ((prefix, dialect) for dialect in DIALECTS for prefix in dialect.prefixes), key=lambda pair: -len(pair[0].text)
)
PARAMETERS: Sequence[tuple[Parameter, Dialect]] = sorted(
    ((parameter, dialect) for dialect in DIALECTS for parameter in dialect.parameters),
    key=lambda pair: -len(pair[0].text),
)
IGNORED: Sequence[Ignored] = tuple(ignored for dialect in DIALECTS for ignored in dialect.ignored)

__all__ = ["DIALECTS", "IGNORED", "PARAMETERS", "PREFIXES", "Dialect", "Ignored", "Parameter", "Prefix"]
