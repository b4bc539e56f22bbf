"""Repetitions: which messages have been taken before, by their message ids.

Rules. A message is recognised by its fingerprint: sender, message id (`$.mid`), all other properties, body, and the
place it goes to. So two different messages are never taken for one, whatever ids their sender gives them, and one
without an id is never recognised. RESENT takes for a repetition only what MQTT marks as sent again (DUP, which a
session keeps as the property `mqtt-dup`: hub specification 3.6); SAME_ID needs no mark, and is for senders that never
use an identifier twice; OFF recognises nothing. The packet identifier of MQTT plays no part: after a PUBACK it stands
for a new message (MQTT 3.1.1, 4.3.2).

It does not know how long anything is remembered, nor where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from edgetrust.protocol.iothub import parse_properties

_MARK = "mqtt-dup"
_LENGTH = 16  # bytes of SHA-256: two equal ones by chance need 2**64 messages of one sender


class Recognition(StrEnum):
    """What is taken for a repetition."""

    OFF = "off"
    RESENT = "resent"
    SAME_ID = "same-id"


class Recognisable(Protocol):
    """What a `Message` has, here and on its way to somewhere."""

    @property
    def device(self) -> str: ...

    @property
    def module(self) -> str | None: ...

    @property
    def properties(self) -> str: ...

    @property
    def body(self) -> bytes: ...


class Mark(NamedTuple):
    """What a message is recognised by, and whether it says that it was sent before."""

    fingerprint: str
    resent: bool


@dataclass(frozen=True, slots=True)
class Sifted:
    """Places in the sequence that was looked at: what is taken, and what was there before; what to remember of the
    former, by its place.
    """

    taken: tuple[int, ...]
    repeated: tuple[int, ...]
    remember: dict[int, str]


def mark_of(message: Recognisable, *place: str) -> Mark | None:
    """What `message` is recognised by where it goes to the place of this name; None without a message id."""
    properties = message.properties
    if "mid=" not in properties:
        return None  # most messages: reading the properties costs more than all the rest
    bag = parse_properties(properties)
    if not bag.get("$.mid"):
        return None
    resent = bag.get(_MARK) == "true"
    if resent:
        properties = "&".join(pair for pair in properties.split("&") if not pair.startswith(f"{_MARK}="))
    return Mark(_fingerprint(message, properties, "/".join(place)), resent)


def sift(marks: Sequence[Mark | None], known: Container[str], recognition: Recognition) -> Sifted:
    """Tell repetitions from what is new; `known` are the fingerprints that are remembered."""
    taken: list[int] = []
    repeated: list[int] = []
    remember: dict[int, str] = {}
    here: set[str] = set()  # of this sequence
    for place, mark in enumerate(marks):
        if mark is None or recognition is Recognition.OFF:
            taken.append(place)
        elif (mark.resent or recognition is Recognition.SAME_ID) and (
            mark.fingerprint in here or mark.fingerprint in known
        ):
            repeated.append(place)
        else:
            taken.append(place)
            if mark.fingerprint not in here:
                remember[place] = mark.fingerprint
            here.add(mark.fingerprint)
    return Sifted(tuple(taken), tuple(repeated), remember)


def _fingerprint(message: Recognisable, properties: str, place: str) -> str:
    digest = hashlib.sha256()
    for text in (message.device, message.module or "", place, properties):
        part = text.encode()
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(message.body)
    return digest.hexdigest()[: 2 * _LENGTH]
