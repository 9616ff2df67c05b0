"""Deals captions out to pictures, puts the trigger in front, and says what they are without it."""

import re
from collections.abc import Sequence

from ...errors import BadSetting

PLAIN_CAPTIONS = "<captions>"  # among prompts to keep: every caption without its trigger


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
    trigger = _bare(trigger)
    if not trigger or _as_a_word(trigger).search(caption):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def without_trigger(caption: str, trigger: str) -> str:
    """The caption without the trigger wherever it is a word of its own, and without the comma behind it."""
    trigger = _bare(trigger)
    if not trigger:
        return caption
    left = _as_a_word(trigger, then=r"\s*,?").sub("", caption)
    return " ".join(left.split()).strip(" ,")


def prompts_to_keep(lines: Sequence[str], captions: Sequence[str], trigger: str) -> list[str]:
    """The prompts that should go on meaning what they mean; a line PLAIN_CAPTIONS is every caption without its trigger.

    A prompt that only lacks the word says best what the word alone should change.

    Raises BadSetting where PLAIN_CAPTIONS is asked for and there is no trigger.
    """
    if PLAIN_CAPTIONS not in lines:
        return list(lines)
    if not _bare(trigger):
        raise BadSetting(
            f"keep_prompts has {PLAIN_CAPTIONS}, every caption without its trigger, but the pictures have no trigger; "
            "give them one, or write the prompts out"
        )
    plain = [without_trigger(caption, trigger) for caption in captions]
    return list(dict.fromkeys(one for line in lines for one in (plain if line == PLAIN_CAPTIONS else [line])))


def _bare(trigger: str) -> str:
    return trigger.strip().rstrip(",")


def _as_a_word(trigger: str, then: str = "") -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w){then}", re.IGNORECASE)
