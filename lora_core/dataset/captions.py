"""Deals captions out to pictures, and puts the trigger in front."""

import re
from collections.abc import Sequence

from ..errors import BadSetting


def captions_for(pictures: int, texts: Sequence[str]) -> list[str]:
    """One caption for each of `pictures` pictures.

    Args:
        pictures: how many there are.
        texts: one text with a line per picture or one line for all, or several texts with one caption each. A blank
            line is a picture without caption; those at the end do not count where there are too many.

    Raises BadSetting when the numbers do not go together.
    """
    if len(texts) == 1:
        captions = [line.strip() for line in texts[0].splitlines()]
        if len(captions) != pictures:
            captions = [line.strip() for line in texts[0].rstrip().splitlines()]
    else:
        captions = [" ".join(text.split()) for text in texts]
    if len(captions) <= 1:
        return (captions or [""]) * pictures
    if len(captions) != pictures:
        raise BadSetting(
            f"there are {len(captions)} captions for {pictures} pictures; give one line for each, or one for all"
        )
    return captions


def with_trigger(caption: str, trigger: str) -> str:
    """The caption with the trigger in front, unless it is in it as a word of its own; case does not matter."""
    trigger = trigger.strip().rstrip(",")
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger}, {caption}" if caption else trigger
