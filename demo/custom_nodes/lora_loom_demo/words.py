"""The words that the demo's text encoder knows, each with its number; and the tokenizer the host asks for numbers."""

import os
import re
from pathlib import Path

from comfy.sd1_clip import SD1Tokenizer, SDTokenizer

START, END = "<start>", "<end>"
VOCABULARY = (
    *("a", "on", "and", "the", "with"),
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "cyan", "white", "black", "grey"),
    *("circle", "square", "triangle", "cross", "star", "heart", "ring", "moon", "arrow", "diamond"),
    *("outline", "striped", "dotted", "filled", "neon"),
    *("sks", "ohwx", "zwx"),  # without a meaning, for whoever trains a new one
)
SLOTS = 48  # rows of the embedding; those past the vocabulary are spare
TOKENS = 16  # tokens per caption, start and end included

_NUMBERS = {word: number for number, word in enumerate((START, END, *VOCABULARY))}
SPECIAL_TOKENS = {"start": _NUMBERS[START], "end": _NUMBERS[END], "pad": _NUMBERS[END]}


class UnknownWord(ValueError):
    """A caption holds words that the demo's text encoder was not built with."""


class WordTokenizer:
    """One number per word; the part of a Hugging Face tokenizer that the host's SDTokenizer uses."""

    @classmethod
    def from_pretrained(cls, _path: str | os.PathLike[str], **_options: object) -> "WordTokenizer":
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        words = re.findall(r"[^\s,.;:]+", text.lower())
        unknown = [word for word in words if word not in _NUMBERS]
        if unknown:
            raise UnknownWord(
                f"The demo model does not know {', '.join(map(repr, unknown))} in {text!r}. "
                f"It knows: {', '.join(VOCABULARY)}."
            )
        return {"input_ids": [_NUMBERS[word] for word in (START, *words, END)]}

    def get_vocab(self) -> dict[str, int]:
        return dict(_NUMBERS)


class DemoClipTokenizer(SDTokenizer):
    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict[str, object] | None = None) -> None:
        super().__init__(
            tokenizer_path=Path(__file__).parent,  # unused by WordTokenizer, but the host wants one
            tokenizer_class=WordTokenizer,
            max_length=TOKENS,
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
        )


class DemoTokenizer(SD1Tokenizer):
    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict[str, object] | None = None) -> None:
        super().__init__(
            embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=DemoClipTokenizer
        )
