"""Finds the words that a LoRA answers to: in the caption counts and folder names that kohya's trainers write."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from .metadata_value import Unreadable, read_table, read_value

TAGS, FOLDERS, DATASETS = "ss_tag_frequency", "ss_dataset_dirs", "ss_datasets"
KOHYA_FOLDER = re.compile(r"^\d+_(?P<words>.+?)(?: \(\d+\))?$")  # repeats_words; " (2)" tells two of one name apart
FOLDER = "folder"
FIELD_AT_MOST = 2_000_000  # characters of one field; reading a longer one would keep everybody waiting
WORDS_AT_MOST = 30  # the rest is in the metadata


@dataclass(frozen=True, slots=True)
class TriggerWord:
    """A word, or a phrase, that the training captions or the training folders have."""

    text: str
    share: float  # of the training images that it stands for, 0..1
    source: str  # "folder" or "captions"


@dataclass(slots=True)
class _Dataset:
    """What is known of one folder of training images."""

    tags: dict[str, int] = field(default_factory=dict[str, int])  # tag -> captions that have it
    images: int = 0  # 0 where the file does not tell
    words: str = ""  # that kohya's folder name, or its configuration, gives all of its images

    @property
    def size(self) -> int:
        """Its images; where they are not told, as many as have its most frequent tag."""
        return self.images or max(self.tags.values(), default=0)


def find_trigger_words(metadata: Mapping[str, str]) -> tuple[tuple[TriggerWord, ...], dict[str, str]]:
    """(words by falling share of all training images, field -> reason of what could not be read).

    The formats are those of kohya sd-scripts, train_network.py: ss_tag_frequency {folder: {tag: captions}},
    ss_dataset_dirs {folder: {"img_count"}}, ss_datasets [{"subsets": [{"image_dir", "img_count", "class_tokens"}]}].
    """
    datasets: dict[str, _Dataset] = {}
    unreadable: dict[str, str] = {}
    for name, reader in READERS.items():
        if name in metadata:
            try:
                if len(metadata[name]) > FIELD_AT_MOST:
                    raise Unreadable(f"longer than {FIELD_AT_MOST} characters")
                reader(metadata[name], datasets)
            except Unreadable as reason:
                unreadable[name] = str(reason)
    return _ranked(datasets), unreadable


def suggested_words(written: Sequence[str], phrase: str | None, found: Sequence[TriggerWord]) -> tuple[str, ...]:
    """The words to put into a prompt: what a person wrote, else the phrase that the file names, else its folders.

    Tags of captions are not among them: they tell what the pictures showed, not what the file answers to.
    """
    if written:
        return tuple(dict.fromkeys(written))
    if phrase:
        return (phrase,)
    return tuple(dict.fromkeys(word.text for word in found if word.source == FOLDER))


def _ranked(datasets: Mapping[str, _Dataset]) -> tuple[TriggerWord, ...]:
    images = sum(dataset.size for dataset in datasets.values())
    found: dict[str, TriggerWord] = {}
    for source, counts in ((FOLDER, _folder_counts(datasets)), ("captions", _tag_counts(datasets))):
        for text, count in counts.items():
            word = TriggerWord(text, count / images if images else 0.0, source)
            if text.casefold() not in found or found[text.casefold()].share < word.share:
                found[text.casefold()] = word
    return tuple(sorted(found.values(), key=lambda word: -word.share)[:WORDS_AT_MOST])


def _folder_counts(datasets: Mapping[str, _Dataset]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, dataset in datasets.items():
        folder = KOHYA_FOLDER.match(name)
        words = dataset.words or (folder["words"].strip() if folder else "")
        if words:
            counts[words] = counts.get(words, 0) + dataset.size
    return counts


def _tag_counts(datasets: Mapping[str, _Dataset]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for dataset in datasets.values():
        size = dataset.size  # looks at every tag
        for tag, count in dataset.tags.items():
            counts[tag] = counts.get(tag, 0) + min(count, size)
    return counts


def _read_tags(text: str, datasets: dict[str, _Dataset]) -> None:
    _add_tags(read_table(text), datasets)


def _add_tags(table: Mapping[str, Any], datasets: dict[str, _Dataset]) -> None:
    for folder, tags in table.items():
        counts = _table(tags, f"'{folder[:40]}' has no table of tags")
        kept = datasets.setdefault(folder, _Dataset()).tags
        for tag, count in counts.items():
            if tag.strip():
                kept[tag.strip()] = _count(count, f"'{tag[:40]}' has no count")


def _read_folders(text: str, datasets: dict[str, _Dataset]) -> None:
    for folder, facts in read_table(text).items():
        images = _table(facts, f"'{folder[:40]}' has no table").get("img_count", 0)
        datasets.setdefault(folder, _Dataset()).images = _count(images, f"'{folder[:40]}' has no img_count")


def _read_datasets(text: str, datasets: dict[str, _Dataset]) -> None:
    value = read_value(text)
    if not isinstance(value, list):
        raise Unreadable("no list")
    entries = [_table(entry, "a dataset is no table") for entry in cast("list[Any]", value)]
    for entry in entries:
        if not datasets:
            _add_tags(_table(entry.get("tag_frequency") or {}, "tag_frequency is no table"), datasets)
    for folder, subset in _subsets(entries):
        if subset.get("is_reg") is True:
            datasets.pop(folder, None)  # regularisation images are what the LoRA should not answer to
            continue
        dataset = datasets.setdefault(folder, _Dataset())
        dataset.images = dataset.images or _count(subset.get("img_count", 0), f"'{folder[:40]}' has no img_count")
        dataset.words = str(subset.get("class_tokens") or "").strip()


def _subsets(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in entries:
        subsets: object = entry.get("subsets") or []
        if not isinstance(subsets, list):
            raise Unreadable("subsets are no list")
        for value in cast("list[Any]", subsets):
            subset = _table(value, "a subset is no table")
            folder = str(subset.get("image_dir") or subset.get("metadata_file") or "")
            if folder:
                yield folder, subset


def _table(value: object, reason: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(reason)
    return {str(name): entry for name, entry in cast("dict[Any, Any]", value).items()}


def _count(value: object, reason: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Unreadable(reason)
    return value


READERS = {TAGS: _read_tags, FOLDERS: _read_folders, DATASETS: _read_datasets}
