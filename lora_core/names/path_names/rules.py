"""Names that follow a pattern: a table of rules from a model's own paths to another trainer's."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from .place import Name, Shape

RowsOf = Callable[[Shape], tuple[int, int]]  # weight shape [out, in, *kernel] -> [start, stop)


@dataclass(frozen=True, slots=True)
class Rule:
    """`own` path -> `other` name; {} stands for the same numbers in both."""

    own: str
    other: str
    rows: RowsOf | None = None
    swap_halves: Callable[[Shape], bool] | None = None
    alias: bool = False  # a name that diffusers itself does not use


def names_by_rules(rules: tuple[Rule, ...], shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every name that the rules give to a part's paths.

    Args:
        shapes: path inside the part -> weight shape.
    """
    compiled = _compiled(rules)
    for path, shape in shapes.items():
        for pattern, rule in compiled.get(path.partition(".")[0], ()):
            found = pattern.fullmatch(path)
            if found:
                rows = rule.rows(shape) if rule.rows else None
                swapped = rule.swap_halves is not None and rule.swap_halves(shape)
                yield Name(rule.other.format(*found.groups()), path, rows, swapped, alias=rule.alias)


@cache
def _compiled(rules: tuple[Rule, ...]) -> Mapping[str, list[tuple[re.Pattern[str], Rule]]]:
    """The rules by the first segment of the paths they are for."""
    compiled: dict[str, list[tuple[re.Pattern[str], Rule]]] = {}
    for rule in rules:
        pattern = re.compile(re.escape(rule.own).replace(r"\{\}", r"(\d+)"))
        compiled.setdefault(rule.own.partition(".")[0], []).append((pattern, rule))
    return compiled


def query(shape: Shape) -> tuple[int, int]:
    """The rows of q in a fused q, k, v whose q is as wide as the input."""
    return 0, shape[1]


def key(shape: Shape) -> tuple[int, int]:
    """The rows of k: half of what q leaves (equal to q unless queries share keys)."""
    return shape[1], shape[1] + (shape[0] - shape[1]) // 2


def value(shape: Shape) -> tuple[int, int]:
    """The rows of v."""
    return shape[1] + (shape[0] - shape[1]) // 2, shape[0]


def split(own: str, others: Sequence[str]) -> list[Rule]:
    """The rules of a fused q, k, v layer for its three names."""
    return [Rule(own, other, rows) for other, rows in zip(others, (query, key, value), strict=True)]


def first_half(shape: Shape) -> tuple[int, int]:
    """The first of two equal layers that were joined."""
    return 0, shape[0] // 2


def second_half(shape: Shape) -> tuple[int, int]:
    """The second of two equal layers that were joined."""
    return shape[0] // 2, shape[0]


def aliases(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules, marked as names that diffusers itself does not use."""
    return tuple(replace(rule, alias=True) for rule in rules)


def always(shape: Shape) -> bool:
    """For layers whose halves are always the other way round."""
    return True
