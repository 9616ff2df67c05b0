"""Finds the known name most similar to one that fits nothing, fast enough for thousands of rubbish keys."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import chain, pairwise

WORD = re.compile(r"[A-Za-z0-9]+")
LOOKED_THROUGH = 600  # entries of the index per search; the rarest pairs of words come first
CANDIDATES = 6  # names compared word by word
LIKENESS = 0.5  # below this share of common words in their order a hint would mislead
SEARCHES = 300  # names looked up; a file with more misfits is no misspelled one

Pair = tuple[str, str]


class NearestNames:
    """An index of names by the pairs of words that stand side by side in them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(set(names))
        self._by_pair: dict[Pair, list[int]] = {}
        self._known: dict[str, str | None] = {}
        for index, name in enumerate(self._names):
            for pair in _pairs(_words(name)):
                self._by_pair.setdefault(pair, []).append(index)

    def of(self, name: str) -> str | None:
        """The most similar name; None when nothing is similar enough to help, or too many were asked for."""
        if name not in self._known:
            if len(self._known) >= SEARCHES:
                return None
            self._known[name] = self._search(_words(name))
        return self._known[name]

    def _search(self, words: Sequence[str]) -> str | None:
        matcher = SequenceMatcher(None, (), words, autojunk=False)
        best, nearest = LIKENESS, None
        for index in self._candidates(words):
            matcher.set_seq1(_words(self._names[index]))
            if matcher.quick_ratio() >= best and (likeness := matcher.ratio()) >= best:
                best, nearest = likeness, self._names[index]
        return nearest

    def _candidates(self, words: Sequence[str]) -> Iterable[int]:
        """The names that share most of the rare pairs."""
        known = (self._by_pair[pair] for pair in set(_pairs(words)) if pair in self._by_pair)
        lists: list[list[int]] = []
        left = LOOKED_THROUGH
        for found in sorted(known, key=len):
            left -= len(found)
            if left < 0 and lists:
                break
            lists.append(found[:LOOKED_THROUGH])
        shared = Counter(chain.from_iterable(lists))
        return [index for index, _ in shared.most_common(CANDIDATES)]


def _words(name: str) -> list[str]:
    return WORD.findall(name.replace("_", " "))


def _pairs(words: Sequence[str]) -> Iterator[Pair]:
    return pairwise(words)
