"""Client: one connection from its CONNECT to its end, as the transport drives it.

The shape is that of the transport's handler (connect, packets, lost); this layer does not import it. A connection that
ends because the peer broke MQTT itself is on record too: its cause begins with the fault's slug.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetrust.broker.door import Door
from edgetrust.broker.ports import Stream
from edgetrust.broker.session import Session
from edgetrust.protocol.mqtt.faults import Fault
from edgetrust.protocol.mqtt.packets import Connect, Packet


class Client:
    """Hands a connection to the door, then to its session."""

    __slots__ = ("_door", "_gone", "_session", "_stream")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._stream: Stream | None = None
        self._session: Session | None = None
        self._gone = False

    def attach(self, stream: Stream) -> None:
        """Whose connection this is, known before its first packet: faults before CONNECT are recorded with the peer."""
        self._stream = stream

    async def connect(self, packet: Connect, stream: Stream) -> None:
        """The first packet. Returns when it is answered."""
        self._stream = stream
        session = await self._door.admit(packet, stream)
        if session is not None and self._gone:
            session.lost("gone while it was admitted", clean=False)
        self._session = session

    def packets(self, packets: Sequence[Packet]) -> None:
        """Everything after CONNECT, as it arrives."""
        if self._session is not None:
            self._session.packets(packets)

    def lost(self, cause: str, clean: bool) -> None:
        """The connection is gone; called once."""
        self._gone = True
        session, self._session = self._session, None
        if _is_fault(cause):
            self._door.violated(None if session is None else session.identity, cause, self._stream)
        if session is not None:
            session.lost(cause, clean=clean)


def _is_fault(cause: str) -> bool:
    return cause.partition(":")[0] in _FAULTS


_FAULTS = frozenset(fault.value for fault in Fault)
