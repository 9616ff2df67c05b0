"""Finds the pictures of a folder, the caption of each, and how often it is to be seen; decodes nothing."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...errors import FileMissing, NoPictures, listed

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
CAPTION_ENDINGS = (".txt", ".caption")  # beside a picture; the first that is there is read
CAPTION_LISTS = ("metadata.jsonl", "captions.jsonl")  # one JSON object per line
NAME_FIELD, CAPTION_FIELDS = "file_name", ("text", "caption")
REPEAT_FOLDER = re.compile(r"(\d{1,4})_(.*)")  # kohya: how often per epoch, then what it shows


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture that has been found and not been opened."""

    path: Path
    name: str  # relative to the folder that was asked for
    caption: str | None  # None: there is none anywhere
    repeats: int  # times per epoch
    problem: str = ""  # why its caption can't be read; "" where it can


@dataclass(frozen=True, slots=True)
class FoundPictures:
    """What a folder holds, in the order of its names."""

    files: Sequence[PictureFile]
    notes: Sequence[str]


def find_pictures(folder: Path) -> FoundPictures:
    """The pictures of a folder and of kohya's folders `N_name` in it, sorted by name.

    A caption is, in this order: the text file beside the picture, its line in metadata.jsonl or captions.jsonl (fields
    `file_name`, and `text` or `caption`), the name of the folder `N_name`.

    Raises:
        FileMissing: there is no such folder, or it can't be read.
        NoPictures: no picture lies in it.
    """
    try:
        folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        found = [(place, _pictures_in(place)) for place in folders]
    except OSError as error:
        reason = f"the folder can't be read ({error.strerror or error})"
        raise FileMissing(folder.name, reason, "Choose a folder that is there.") from None
    used = [(place, paths) for place, paths in found if paths and (place == folder or _repeats(place) is not None)]
    left_out = [f"{place.name} ({len(paths)})" for place, paths in found if paths and (place, paths) not in used]
    notes = [f"folders left out, since their names do not begin with a number and _: {listed(left_out)}"]
    if not used:
        advice = f" Pictures lie in other folders below it: {listed(left_out)}." if left_out else ""
        endings = ", ".join(sorted(ending[1:] for ending in PICTURE_ENDINGS))
        raise NoPictures(f"the folder {folder.name} holds no picture ({endings}).{advice} Put some there.")
    lists = _CaptionLists(folder, [place for place, _ in used])
    files = [_picture_file(folder, place, path, lists) for place, paths in used for path in paths]
    return FoundPictures(tuple(files), (*(notes if left_out else ()), *lists.problems, *_unused(lists, files)))


def folder_fingerprint(folder: Path) -> str:
    """Tells one state of a folder from another without reading its files: names, times of change and sizes."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        try:
            status = path.stat()
        except OSError:
            continue  # deleted since it was listed: the next look sees another state anyway
        line = f"{path.relative_to(folder)}\0{status.st_mtime_ns}\0{status.st_size}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _pictures_in(folder: Path) -> list[Path]:
    """Without hidden files: ._NAME.png is what macOS keeps beside a picture, and no picture."""
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.suffix.lower() in PICTURE_ENDINGS and path.is_file())


def _repeats(folder: Path) -> int | None:
    match = REPEAT_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match and int(match[1]) > 0 else None


def _picture_file(folder: Path, place: Path, path: Path, lists: "_CaptionLists") -> PictureFile:
    problem = ""
    caption: str | None = None
    try:
        caption = _text_beside(path)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"its caption can't be read ({error})"
    if caption is None:
        caption = lists.caption(path)
    match = REPEAT_FOLDER.fullmatch(place.name)
    if caption is None and match and match[2].strip():
        caption = match[2].strip()
    name = path.relative_to(folder).as_posix()
    return PictureFile(path=path, name=name, caption=caption, repeats=_repeats(place) or 1, problem=problem)


def _text_beside(path: Path) -> str | None:
    """Lines are joined by blanks: a caption is one line to a text encoder."""
    for ending in CAPTION_ENDINGS:
        beside = path.with_suffix(ending)
        if beside.is_file():
            text = " ".join(beside.read_text(encoding="utf-8-sig").split())
            return text or None
    return None


class _CaptionLists:
    """The lists of captions in a folder and its folders, by the picture that each line is for."""

    def __init__(self, folder: Path, places: Sequence[Path]) -> None:
        self.problems: list[str] = []
        self._captions: dict[Path, str] = {}
        for place in places:
            for list_name in CAPTION_LISTS:
                path = place / list_name
                if path.is_file():
                    shown = path.relative_to(folder).as_posix()
                    for name, caption in self._lines(path, shown):
                        self._captions.setdefault(place / name.replace("\\", "/"), caption)

    def caption(self, picture: Path) -> str | None:
        return self._captions.get(picture)

    @property
    def pictures(self) -> Mapping[Path, str]:
        return self._captions

    def _lines(self, path: Path, shown: str) -> Iterator[tuple[str, str]]:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{shown} can't be read ({error}); its captions are not used")
            return
        bad: list[str] = []
        for number, line in enumerate(lines, start=1):
            entry = _entry(line)
            if entry is not None:
                yield entry
            elif line.strip():
                bad.append(str(number))
        if bad:
            expected = f'{{"{NAME_FIELD}": ..., "{CAPTION_FIELDS[0]}": ...}}'
            self.problems.append(f"{shown}: not used, since they are not {expected}: line {listed(bad)}")


def _entry(line: str) -> tuple[str, str] | None:
    """The picture's name and its caption in a line of JSON; None for a line that is something else."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    name = fields.get(NAME_FIELD)
    caption: Any = next((fields[field] for field in CAPTION_FIELDS if field in fields), None)
    return (name, " ".join(caption.split())) if isinstance(name, str) and isinstance(caption, str) else None


def _unused(lists: _CaptionLists, files: Sequence[PictureFile]) -> list[str]:
    there = {file.path for file in files}
    names = sorted(path.name for path in lists.pictures if path not in there)
    return [f"captions of pictures that are not there: {listed(names)}"] if names else []
