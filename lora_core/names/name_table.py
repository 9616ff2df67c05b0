"""Every name that a trainer would give to a layer of one model: built from the model's own paths, asked exactly."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .block_names import names_of
from .key_dialects import PREFIXES, Dialect, Prefix
from .key_dialects.dialect import CLIP_BESIDE_LANGUAGE, CLIPS, DOTS, NOT_CLIP, TEXT_ENCODER_BY_NAME, UNDERSCORES
from .loose_spelling import letters_and_numbers, without_wrappers
from .nearest import NearestNames
from .path_names import Name, fused_names, names_of_part, rare_names_of_part
from .target_layer import UNET, ModelLayout, TargetLayer

NOT_THERE = "no layer of this name in the model"
NO_CLIP = "for a text encoder; no CLIP is connected"
OTHER_CLIP = "for a text encoder that this CLIP does not have"
NO_MODEL = "for the denoiser; only a CLIP is connected"
MISSING_PARTS = frozenset({NO_CLIP, OTHER_CLIP, NO_MODEL})
FITS_TWO = "the name fits two layers of the model"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an adapter acts: a layer of the model by path, or some rows of its weight."""

    path: str
    rows: tuple[int, int] | None = None  # [start, stop) of the output rows; None for all
    swap_halves: bool = False  # the file has the second half of the rows first
    source_rows: tuple[int, int] | None = None  # [start, stop) of the file's rows, where it fuses several layers


class Found(NamedTuple):
    """What a layer's name stands for."""

    places: tuple[Place, ...]
    prefix: Prefix
    dialect: Dialect
    is_loose: bool = False  # found by its letters and numbers alone


class NameTable:
    """The names of all parts of one model. Tables are made when a name is first asked for in their spelling."""

    def __init__(self, layout: ModelLayout) -> None:
        self.layout = layout
        self._parts = layout.parts
        targets: dict[str, dict[str, TargetLayer]] = {part: {} for part in sorted(self._parts)}
        for target in layout.targets.values():
            targets[target.part][target.inner] = target
        self._names = {part: PartNames(part, own) for part, own in targets.items()}
        self._prefixes = [(prefix, dialect, self._parts_of(prefix)) for prefix, dialect in PREFIXES]

    def _parts_of(self, prefix: Prefix) -> tuple[str, ...]:
        """The parts at hand that a prefix may stand for, in the order in which they are tried."""
        others = tuple(sorted(self._parts - {UNET, *CLIPS}))
        language = [part for part in others if not part.startswith("t5")]
        beside = ("clip_l",) if language and "clip_g" not in self._parts else ()
        meant = {NOT_CLIP: others, CLIP_BESIDE_LANGUAGE: beside}
        parts = [part for entry in prefix.parts for part in meant.get(entry, (entry,))]
        return tuple(dict.fromkeys(parts))

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the model that are at hand."""
        return self._parts

    def find(self, layer: str) -> Found | str:
        """The places that a layer's name stands for, or the reason why there is none.

        What no table has is looked for once more without the marks of wrappers, and then by letters and numbers alone.
        """
        found = self._exact(layer)
        if found != NOT_THERE:
            return found
        bare = without_wrappers(layer)
        if bare != layer and (found := self._exact(bare)) != NOT_THERE:
            return found
        return self._loosely(bare)

    def _exact(self, layer: str) -> Found | str:
        for prefix, dialect, parts in self._prefixes:
            if not layer.startswith(prefix.text):
                continue
            name = layer[len(prefix.text) :]
            for part in parts:
                places = self._find_in(part, name, prefix.joined)
                if places is not None:
                    return Found(places, prefix, dialect) if places else FITS_TWO
            missing = self._missing_part(prefix, parts, name) if prefix.text else None
            if missing is not None:
                return missing
        return NOT_THERE

    def _loosely(self, layer: str) -> Found | str:
        for prefix, dialect, parts in self._prefixes:
            if not layer.startswith(prefix.text):
                continue
            spelled = letters_and_numbers(layer[len(prefix.text) :])
            for part in parts:
                names = self._names.get(part)
                places = names.loosely(spelled) if names is not None and spelled else None
                if places is not None:
                    return Found(places, prefix, dialect, is_loose=True) if places else FITS_TWO
        return NOT_THERE

    def _find_in(self, part: str, name: str, joined: str) -> tuple[Place, ...] | None:
        if part == TEXT_ENCODER_BY_NAME:
            path = self._encoder_paths.get(name)
            return None if path is None else (Place(path),)
        names = self._names.get(part)
        return None if names is None else names.find(name, joined)

    @cached_property
    def _encoder_paths(self) -> Mapping[str, str]:
        """Paths that begin with the text encoder's own name, and those of a language model without it."""
        paths: dict[str, str] = {}
        for path, target in self.layout.targets.items():
            if target.part != UNET:
                own = f"{target.part}.transformer.{target.inner}"  # as hosts call it, also where a checkpoint does not
                paths[path] = paths[own] = path
                if target.part not in CLIPS:
                    paths.setdefault(own.partition(DOTS)[2], path)
        return paths

    def _missing_part(self, prefix: Prefix, parts: Sequence[str], name: str) -> str | None:
        """Why the part that a prefix announces is not at hand; None if it is."""
        meant = {name.split(DOTS)[0]} if TEXT_ENCODER_BY_NAME in parts else set(parts)
        if self._parts & meant:
            return None
        if UNET in prefix.parts:
            return NO_MODEL
        return OTHER_CLIP if self._parts - {UNET} else NO_CLIP

    @cached_property
    def names_by_path(self) -> Mapping[str, frozenset[str]]:
        """Path of a layer -> every name that it, or the block that it is in, is found by; see block_names."""
        in_files = {path: list[str]() for path in self.layout.targets}
        for names in self._names.values():
            for path, name in names.by_path():
                in_files[path].append(name)
        return {path: frozenset(names_of(target, in_files[path])) for path, target in self.layout.targets.items()}

    @cached_property
    def nearest(self) -> NearestNames:
        """Finds the most similar own or known name; built only when a key fits nothing."""
        return NearestNames(name for names in self._names.values() for name in names.dotted())


class PartNames:
    """The names of one part's layers."""

    def __init__(self, part: str, own: Mapping[str, TargetLayer]) -> None:
        self._part = part
        self._own = own
        self._shapes = {inner: target.shape for inner, target in own.items()}
        self._common: dict[str, _Spelled] = {}  # by what joins the segments
        self._rare: dict[str, _Spelled] = {}

    def find(self, name: str, joined: str) -> tuple[Place, ...] | None:
        """The places of a name; empty if it fits two layers, None if it fits none."""
        common = self._common.get(joined)
        if common is None:
            common = self._common[joined] = _Spelled(self._known.values(), joined)
        found = common.names.get(name)
        if found is None:
            rare = self._rare.get(joined)
            if rare is None:
                rare = self._rare[joined] = _Spelled(self._rarely_known(), joined)
            if name in rare.twice:
                return ()
            return self._places(rare.names[name]) if name in rare.names else None
        return () if name in common.twice else self._places(found)

    def loosely(self, spelled: str) -> tuple[Place, ...] | None:
        """As `find`, by letters_and_numbers of a name; what means two layers so is none."""
        if spelled in self._loose.twice:
            return ()
        found = self._loose.names.get(spelled)
        return None if found is None else self._places(found)

    @cached_property
    def _loose(self) -> "_Spelled":
        return _Spelled((*self._known.values(), *self._rarely_known()), LETTERS_AND_NUMBERS)

    def by_path(self) -> Iterator[tuple[str, str]]:
        """(path of a layer, a name of it with dots) for every name."""
        for name in (*self._known.values(), *self._rarely_known()):
            yield self._own[name.inner].path, name.name

    def dotted(self) -> Iterable[str]:
        """Every name in common use, with dots."""
        return self._known.keys()

    @cached_property
    def _known(self) -> Mapping[str, Name]:
        """Own paths and the names in common use; a name of two layers is kept twice, under keys of its own."""
        known = {inner: Name(inner, inner) for inner in self._own}
        for name in names_of_part(self._part, self._shapes):
            first = known.setdefault(name.name, name)
            if _meaning(first) != _meaning(name):
                known[f"{name.name} ({name.inner})"] = name
        return known

    def _rarely_known(self) -> Iterator[Name]:
        yield from rare_names_of_part(self._part, self._shapes)
        yield from fused_names(self._known, self._shapes)

    def _places(self, names: Sequence[Name]) -> tuple[Place, ...]:
        return tuple(Place(self._own[name.inner].path, name.rows, name.swap_halves, name.source_rows) for name in names)


LETTERS_AND_NUMBERS = ""  # as what joins the segments: nothing
SPELLINGS: Mapping[str, Callable[[str], str]] = {
    DOTS: lambda name: name,
    UNDERSCORES: lambda name: name.replace(DOTS, UNDERSCORES),
    LETTERS_AND_NUMBERS: letters_and_numbers,
}


class _Spelled:
    """Names by their spelling. A fused name has several entries; two meanings of one name are told apart from that."""

    def __init__(self, names: Iterable[Name], joined: str) -> None:
        self.names: dict[str, tuple[Name, ...]] = {}
        self.twice: set[str] = set()
        for name in names:
            spelled = SPELLINGS[joined](name.name)
            found = self.names.get(spelled)
            if found is None:
                self.names[spelled] = (name,)
            elif name.source_rows is not None and found[0].name == name.name:
                self.names[spelled] = (*found, name)
            elif all(_meaning(other) != _meaning(name) for other in found):
                self.twice.add(spelled)


def _meaning(name: Name) -> tuple[object, ...]:
    return name.inner, name.rows, name.swap_halves, name.source_rows
