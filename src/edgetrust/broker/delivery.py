"""Delivery: what waits in a queue for one connection, from the queue's lease to the client's PUBACK: the
cloud-to-device messages of a device, or what is routed to the inputs of a module.

Rules (hub specification 3.11, 3.13):
1. Messages are leased in order and sent at the granted QoS. At QoS 1 a message is done with its PUBACK, at QoS 0 as
   soon as it is sent.
2. At most INFLIGHT_OUT wait for their PUBACK, and no message is sent twice on one connection.
3. A connection that ends gives back what it holds at once; if another connection of the same device has taken its
   place, that one fetches it.

It must not know sockets or SQL: the queue is a port.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from edgetrust.broker.ports import Command, Commands, Inputs, Routed, Stream
from edgetrust.broker.surroundings import Surroundings
from edgetrust.limits import INFLIGHT_OUT
from edgetrust.protocol import iothub
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.trust.identity import Identity

_LAST_PACKET_ID = 65_535


class Source(Protocol):
    """A queue as one connection sees it."""

    async def lease(self, limit: int, holding: Collection[int]) -> Sequence[Command]: ...

    def complete(self, command: Command) -> None: ...

    def release(self) -> None: ...

    def topic(self, command: Command) -> str: ...


class CommandSource:
    """The cloud-to-device messages of a device."""

    __slots__ = ("_commands", "_device")

    def __init__(self, device: str, commands: Commands) -> None:
        self._device = device
        self._commands = commands

    async def lease(self, limit: int, holding: Collection[int]) -> Sequence[Command]:
        return await self._commands.lease(self._device, limit, holding)

    def complete(self, command: Command) -> None:
        self._commands.complete(self._device, command.sequence, _ignore)

    def release(self) -> None:
        self._commands.release(self._device)

    def topic(self, command: Command) -> str:
        return iothub.devicebound_topic(self._device, command.properties)


class InputSource:
    """What is routed to the inputs of a module."""

    __slots__ = ("_identity", "_inputs", "_module")

    def __init__(self, identity: Identity, inputs: Inputs) -> None:
        self._identity = identity
        self._module = identity.module or ""
        self._inputs = inputs

    async def lease(self, limit: int, holding: Collection[int]) -> Sequence[Routed]:
        return await self._inputs.lease(self._identity, limit, holding)

    def complete(self, command: Command) -> None:
        self._inputs.complete(self._identity, command.sequence, _ignore)

    def release(self) -> None:
        self._inputs.release(self._identity)

    def topic(self, command: Any) -> str:  # one of those that were leased here
        return iothub.input_topic(self._identity.device, self._module, command.input, command.properties)


class Delivery:
    """What flows from a queue to one connection. `qos` is what was granted, None without a subscription."""

    __slots__ = (
        "_again",
        "_around",
        "_fetching",
        "_identity",
        "_inflight",
        "_more",
        "_next_id",
        "_over",
        "_source",
        "_stream",
        "qos",
    )

    def __init__(self, identity: Identity, stream: Stream, around: Surroundings, source: Source, qos: int) -> None:
        self.qos: int | None = qos
        self._source = source
        self._identity = identity
        self._stream = stream
        self._around = around
        self._inflight: dict[int, Command] = {}
        self._next_id = 1
        self._fetching = False
        self._again = False  # somebody asked for a fetch while one was under way
        self._more = False  # the last lease took as much as it could
        self._over = False

    def fetch(self) -> None:
        """Something may wait: lease it and send it. One fetch is under way at a time."""
        if self._over or self.qos is None:
            return
        self._again = True
        if not self._fetching:
            self._fetching = True
            self._around.tasks.start(self._fetch())

    def acknowledged(self, packet_id: int) -> None:
        """The device has it. An identifier that means nothing is ignored."""
        command = self._inflight.pop(packet_id, None)
        if command is None:
            return
        self._source.complete(command)
        if self._more:
            self.fetch()

    def stop(self) -> None:
        """The connection ends: give back what it holds."""
        if self._over:
            return
        self._over = True
        if self._inflight:
            self._inflight.clear()
            self._give_back()

    async def _fetch(self) -> None:
        try:
            while self._again and self.qos is not None:
                self._again = False
                await self._lease_and_send()
        finally:
            self._fetching = False

    async def _lease_and_send(self) -> None:
        room = INFLIGHT_OUT - len(self._inflight)
        if room <= 0:
            self._more = True
            return
        holding = {command.sequence for command in self._inflight.values()}
        commands = await self._source.lease(room, holding)
        if self._over or self._stream.is_closing or self.qos is None:
            if commands:
                self._give_back()
            return
        self._more = len(commands) >= room
        held = {command.sequence for command in self._inflight.values()}
        for command in commands:
            if command.sequence not in held:  # its lock ran out, or somebody else's end gave it back: it is on its way
                self._send(command)
        if self._more and not self.qos:
            self._again = True

    def _send(self, command: Command) -> None:
        topic = self._source.topic(command)
        if not self.qos:
            self._stream.send(encode(Publish(topic, command.body, 0)))
            self._source.complete(command)
            return
        packet_id = self._packet_id()
        self._inflight[packet_id] = command
        self._stream.send(encode(Publish(topic, command.body, 1, False, command.deliveries > 1, packet_id)))

    def _give_back(self) -> None:
        self._source.release()
        successor = self._around.sessions.of(self._identity)
        if successor is not None:
            successor.commands_waiting()

    def _packet_id(self) -> int:
        while self._next_id in self._inflight:
            self._next_id = self._next_id % _LAST_PACKET_ID + 1
        packet_id, self._next_id = self._next_id, self._next_id % _LAST_PACKET_ID + 1
        return packet_id


def _ignore(error: BaseException | None) -> None:
    """For what nobody waits for: the store reports its own failures; the message is delivered once more then."""
