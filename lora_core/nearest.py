"""Finds the known name most similar to one that fits nothing, fast enough for thousands of rubbish keys."""

import difflib
import re
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z0-9]+")
COMMON = 400  # a word in more names than this tells too little to look them all through
CANDIDATES = 8  # names compared letter by letter
LIKENESS = 0.6  # below this share of common letters a hint would mislead
SEARCHES = 300  # names looked up; a file with more misfits is no misspelled one


class NearestNames:
    """An index of names by the words in them; the rarer a shared word, the more it counts."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(set(names))
        self._by_word: dict[str, list[int]] = {}
        self._known: dict[str, str | None] = {}
        for index, name in enumerate(self._names):
            for word in set(WORD.findall(name.replace("_", " "))):
                self._by_word.setdefault(word, []).append(index)

    def of(self, name: str) -> str | None:
        """The most similar name; None when nothing is similar enough to help, or too many were asked for."""
        words = tuple(WORD.findall(name.replace("_", " ")))
        flat = ".".join(words)
        if flat not in self._known:
            if len(self._known) >= SEARCHES:
                return None
            self._known[flat] = self._search(flat, set(words))
        return self._known[flat]

    def _search(self, flat: str, words: set[str]) -> str | None:
        score: dict[int, float] = {}
        for word in words:
            found = self._by_word.get(word, ())
            if len(found) <= COMMON:
                for index in found:
                    score[index] = score.get(index, 0.0) + 1.0 / len(found)
        best = sorted(score, key=lambda index: -score[index])[:CANDIDATES]
        likeness = {
            self._names[index]: difflib.SequenceMatcher(None, self._names[index].replace("_", "."), flat).ratio()
            for index in best
        }
        if not likeness:
            return None
        name = max(likeness, key=lambda name: likeness[name])
        return name if likeness[name] >= LIKENESS else None
