"""Client: one connection from its CONNECT to its end, as the transport drives it.

The shape is that of the transport's handler (connect, packets, lost); this layer does not import it.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetrust.broker.door import Door
from edgetrust.broker.ports import Stream
from edgetrust.broker.session import Session
from edgetrust.protocol.mqtt.packets import Connect, Packet


class Client:
    """Hands a connection to the door, then to its session."""

    __slots__ = ("_door", "_gone", "_session")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._session: Session | None = None
        self._gone = False

    async def connect(self, packet: Connect, stream: Stream) -> None:
        """The first packet. Returns when it is answered."""
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
        if self._session is not None:
            self._session.lost(cause, clean=clean)
            self._session = None
