"""Refuses in one line what no input of a node takes, by the node's own schema: older hosts check only a part of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from comfy_api.latest import io

from ...lora_core.errors import BadValues

FILE, FILE_BY = "lora_name", "lora"  # with a LoRA connected, no file is read; names may be written in several ways
KINDS: Mapping[type, tuple[type, ...]] = {  # class of an input -> what its values are
    io.Combo.Input: (str,),
    io.String.Input: (str,),
    io.Boolean.Input: (bool,),
    io.Int.Input: (int,),
    io.Float.Input: (int, float),
}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one input takes."""

    name: str
    kinds: tuple[type, ...]
    choices: Sequence[str]  # none: any; files come and go, and are looked for when they are read
    is_optional: bool

    def complaint(self, value: Any) -> str:
        """Why a value is none; empty if it is one."""
        if value is None and self.is_optional:
            return ""
        is_kind = isinstance(value, self.kinds) and (bool in self.kinds or not isinstance(value, bool))
        if is_kind and (not self.choices or value in self.choices):
            return ""
        expected = f"one of {', '.join(self.choices)}" if self.choices else " or ".join(k.__name__ for k in self.kinds)
        return f"{self.name} should be {expected}, but is {value!r}"


def check_values(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Have a node raise BadValues, which lists every input of a wrong kind, in the place of running."""
    run: Callable[..., Any] = node.execute.__func__  # pyright: ignore[reportFunctionMemberAccess]
    signature = inspect.signature(run)
    parameters = signature.parameters.values()
    rest = next((one.name for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD), "")

    @cache
    def known() -> tuple[list[_Wanted], bool, str]:
        schema = node.define_schema()
        return list(_wanted(schema)), bool(schema.is_input_list), schema.display_name or node.__name__

    @wraps(run)
    def checked(cls: type[io.ComfyNode], *arguments: Any, **options: Any) -> Any:
        wanted, is_list, title = known()
        given = signature.bind(cls, *arguments, **options).arguments
        given = {**given, **given.get(rest, {})}
        wrong = list(_complaints(wanted, given, is_list=is_list))
        if wrong:  # perhaps by choices that came since
            wrong = list(_complaints(list(_wanted(node.define_schema())), given, is_list=is_list))
        if wrong:
            raise BadValues(title, wrong)
        return run(cls, *arguments, **options)

    node.execute = classmethod(checked)  # pyright: ignore[reportAttributeAccessIssue]
    return node


def _wanted(schema: io.Schema) -> Iterator[_Wanted]:
    for given in schema.inputs:
        kinds = KINDS.get(type(given))
        if kinds is None:
            continue
        is_fixed = getattr(given, "default", None) is not None and not given.id.startswith(FILE)
        choices = [str(choice) for choice in getattr(given, "options", None) or ()] if is_fixed else []
        yield _Wanted(given.id, kinds, choices, bool(given.optional))


def _complaints(wanted: Sequence[_Wanted], given: Mapping[str, Any], *, is_list: bool) -> Iterator[str]:
    for one in wanted:
        if one.name not in given or (one.name == FILE and given.get(FILE_BY) is not None):
            continue
        held = given[one.name]
        values = held if is_list and isinstance(held, list) else [held]
        yield from filter(None, map(one.complaint, values))
