"""Topic names and topic filters: which texts are legal, and which filter matches which topic (MQTT 3.1.1, 4.7)."""

from __future__ import annotations

TEXT_BYTES = 65_535  # what the two length bytes of an MQTT text can say


def valid_topic(text: str) -> bool:
    """Whether `text` can name what a PUBLISH goes to: not empty, no wildcard, no U+0000, at most 65,535 bytes."""
    return bool(text) and "+" not in text and "#" not in text and _encodable(text)


def valid_filter(text: str) -> bool:
    """Whether `text` can be subscribed to: `+` only as a whole level, `#` only as the whole last level."""
    if not text or not _encodable(text):
        return False
    if "#" not in text and "+" not in text:
        return True
    levels = text.split("/")
    if any("+" in level and level != "+" for level in levels):
        return False
    return "#" not in text or (text.count("#") == 1 and levels[-1] == "#")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to `topic_filter` receives `topic`. Both must be valid.

    A wildcard at the start does not match topics that start with `$`; `a/#` matches `a` too.
    """
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        del wanted[-1]
        if len(levels) < len(wanted):
            return False
        del levels[len(wanted) :]
    return len(wanted) == len(levels) and all(one in ("+", other) for one, other in zip(wanted, levels, strict=True))


def _encodable(text: str) -> bool:
    """UTF-8 has no surrogates, MQTT no U+0000, and its texts end at 65,535 bytes."""
    if "\0" in text:
        return False
    if text.isascii():
        return len(text) <= TEXT_BYTES
    try:
        return len(text) <= TEXT_BYTES and len(text.encode()) <= TEXT_BYTES
    except UnicodeEncodeError:
        return False
