"""Chooses the model that adapter files are for, where none is given: the released one that most of their keys fit."""

from collections.abc import Sequence

from ..errors import DifferentFamilies, ModelNeeded
from ..files.lora_file import LoraFile
from ..names.families import Family
from ..names.key_map import map_keys
from ..names.name_table import NameTable
from ..names.target_layer import ModelLayout
from .file_family import family_of_header
from .known_models import known_layouts, with_known_encoders


def model_of(files: Sequence[LoraFile], layout: ModelLayout | None = None) -> ModelLayout:
    """The model that all of the files are for.

    Args:
        files: from open_lora.
        layout: the model if it is given; the text encoders of its family are added where it came without any.

    Raises:
        DifferentFamilies: two files were made for two families.
        ModelNeeded: no model was given, and the family is not known.
    """
    if layout is not None:
        return with_known_encoders(layout)
    family, file = _family(files)
    layouts = list(known_layouts(family.name))
    if not layouts:
        raise ModelNeeded(file.name, family.name)
    fitting = [(_unmatched(files, layout), number, layout) for number, layout in enumerate(layouts)]
    return min(fitting)[2]


def _family(files: Sequence[LoraFile]) -> tuple[Family, LoraFile]:
    """The family of all files, those that tell none left aside, and a file of it."""
    found = [(family_of_header(file.header), file) for file in files]
    telling = [pair for pair in found if list(known_layouts(pair[0].name))] or found
    if len({family.name for family, _ in telling}) > 1:
        raise DifferentFamilies([(file.name, family.name) for family, file in telling])
    return telling[0]


def _unmatched(files: Sequence[LoraFile], layout: ModelLayout) -> int:
    table = NameTable(layout)
    return sum(len(map_keys(file.header.entries, table).unmatched) for file in files)
