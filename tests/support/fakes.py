"""The broker's ports in memory, and a table to play a dialogue at: one hub, clients that connect, send and are sent to.

Nothing here needs an event loop: `Tasks.run` drives coroutines by hand, and what a port holds back is released by the
test (`Gate`). So a dialogue says exactly in which order things happen.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgetrust.broker.claim import House
from edgetrust.broker.client import Client
from edgetrust.broker.door import Door
from edgetrust.broker.methods import Methods
from edgetrust.broker.ports import Done
from edgetrust.broker.session import Surroundings
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import ManualClock
from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.messages import Message
from edgetrust.protocol.mqtt.connection import MqttConnection
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet, Puback, Publish, Suback, Will
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.protocol.twin import Json, Twin, created_twin, reported
from edgetrust.trust.audit import Record
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from support.decisions import HUB, KEYS, NOW, registered

PRIMARY = KEYS.primary.reveal()


class Gate:
    """Where coroutines wait until the test opens it."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open

    def __await__(self) -> Generator[None, None, None]:
        while not self.is_open:
            yield


class FakeTasks:
    """Runs coroutines as far as they go, in the order they were started; `run` again after opening a gate."""

    def __init__(self) -> None:
        self.waiting: list[Coroutine[Any, Any, None]] = []
        self.failed: list[Exception] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.waiting.append(work)

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for work in tuple(self.waiting):
                if work not in self.waiting:
                    continue
                before = len(self.waiting)
                try:
                    work.send(None)
                except StopIteration:
                    self.waiting.remove(work)
                    moved = True
                except Exception as error:  # noqa: BLE001 - a task of the actor ends alone
                    self.waiting.remove(work)
                    self.failed.append(error)
                    moved = True
                else:
                    moved = moved or len(self.waiting) != before


class FakeRegistry:
    """Registrations by identity, devices below gateways, and a version that grows with every change."""

    def __init__(self) -> None:
        self.version = 1
        self.registrations: dict[Identity, Registration] = {}
        self.missing = Missing(MissingWhy.UNKNOWN, NOW)
        self.anchors = TrustBundle((), as_of=NOW)
        self.below: set[tuple[str, str]] = set()
        self.gate = Gate()
        self.fault: Exception | None = None
        self.asked: list[str] = []
        self.asked_below: list[str] = []

    def put(self, registration: Registration) -> None:
        self.registrations[registration.identity] = registration
        self.version += 1

    async def find(self, identity: Identity) -> Registration | Missing:
        self.asked.append(str(identity))
        found = self.registrations.get(identity, self.missing)
        await self.gate
        if self.fault is not None:
            raise self.fault
        return found

    async def is_below(self, device: str, gateway: Identity) -> bool:
        self.asked_below.append(device)
        found = (device, gateway.device) in self.below
        await self.gate
        if self.fault is not None:
            raise self.fault
        return found

    def bundle(self) -> TrustBundle:
        return self.anchors


class FakeEndpoint:
    """Takes batches; what is on disk, and when, is up to the test. `held` are batches that nobody has answered."""

    def __init__(self) -> None:
        self.at_once = True
        self.fault: Exception | None = None
        self.batches: list[tuple[Message, ...]] = []
        self.held: list[Done] = []

    @property
    def messages(self) -> list[Message]:
        return [message for batch in self.batches for message in batch]

    def append(self, messages: Sequence[Message], done: Done) -> None:
        self.batches.append(tuple(messages))
        if self.at_once:
            done(self.fault)
        else:
            self.held.append(done)

    def answer(self, error: BaseException | None = None) -> None:
        """Answer the oldest batch."""
        self.held.pop(0)(error)


class FakeSubscriptions:
    """Stored sessions by client identifier."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, int]] = {}
        self.gate = Gate()
        self.load_fault: Exception | None = None
        self.at_once = True
        self.fault: BaseException | None = None
        self.held: list[Done] = []

    async def load(self, client_id: str) -> Mapping[str, int] | None:
        found = self.stored.get(client_id)
        await self.gate
        if self.load_fault is not None:
            raise self.load_fault
        return found

    def save(self, client_id: str, filters: Mapping[str, int], done: Done) -> None:
        if self.fault is None:
            self.stored[client_id] = dict(filters)
        if self.at_once:
            done(self.fault)
        else:
            self.held.append(done)

    def discard(self, client_id: str, done: Done) -> None:
        self.stored.pop(client_id, None)
        done(None)


@dataclass
class FakeCommand:
    """A cloud-to-device message in its queue."""

    sequence: int
    body: bytes
    properties: str = ""
    deliveries: int = 0
    leased: bool = False


class FakeCommands:
    """Queues by device, with leases."""

    def __init__(self) -> None:
        self.queues: dict[str, list[FakeCommand]] = {}
        self.gate = Gate()
        self.fault: Exception | None = None
        self.leases: list[int] = []
        self.holding: list[list[int]] = []
        self.released: list[str] = []

    def put(self, device: str, *bodies: bytes, properties: str = "") -> None:
        queue = self.queues.setdefault(device, [])
        for body in bodies:
            queue.append(FakeCommand(len(queue) + 1, body, properties))

    def bodies(self, device: str) -> list[bytes]:
        return [command.body for command in self.queues.get(device, [])]

    async def lease(self, device: str, limit: int, holding: Collection[int] = ()) -> Sequence[FakeCommand]:
        self.leases.append(limit)
        self.holding.append(sorted(holding))
        free = [command for command in self.queues.get(device, []) if not command.leased][:limit]
        for command in free:
            command.leased = True
            command.deliveries += 1
        await self.gate
        if self.fault is not None:
            raise self.fault
        return [FakeCommand(c.sequence, c.body, c.properties, c.deliveries) for c in free]

    def complete(self, device: str, sequence: int, done: Done) -> None:
        queue = self.queues[device]
        queue[:] = [command for command in queue if command.sequence != sequence]
        done(None)

    def release(self, device: str) -> None:
        self.released.append(device)
        for command in self.queues.get(device, []):
            command.leased = False


class FakeTwins:
    """Twins of identities, in memory; `gate` holds reads and writes back."""

    def __init__(self) -> None:
        self.twins: dict[tuple[str, str | None], Twin] = {}
        self.clients: dict[tuple[str, str | None], tuple[str, str]] = {}
        self.gate = Gate()
        self.fault: Exception | None = None
        self.order: list[str] = []

    def note_client(self, device: str, module: str | None, model_id: str, product_info: str) -> None:
        self.clients[device, module] = (model_id, product_info)

    async def twin(self, device: str, module: str | None = None) -> Twin:
        self.order.append("get")
        await self.gate
        if self.fault is not None:
            raise self.fault
        return self.twins.setdefault((device, module), created_twin(NOW))

    async def report(self, device: str, patch: Json, *, module: str | None = None) -> int:
        self.order.append("report")
        await self.gate
        if self.fault is not None:
            raise self.fault
        before = self.twins.setdefault((device, module), created_twin(NOW))
        after = self.twins[device, module] = reported(before, patch, NOW)
        return after.reported.version


class FakeAuditor:
    """Remembers decisions."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    @property
    def refusals(self) -> list[Record]:
        return [record for record in self.records if not record.accepted]


class FakeStream:
    """One connection: decodes what it is given to send, as the client would."""

    def __init__(self, chain: tuple[bytes, ...] = (), address: str = "192.0.2.7:40000") -> None:
        self.peer_chain = chain
        self.peer_address = address
        self.sent: list[Packet] = []
        self.closed = ""
        self.keep_alive: float | None = None
        self.reading = True
        self._connection = MqttConnection("client")

    @property
    def is_closing(self) -> bool:
        return bool(self.closed)

    def send(self, data: bytes) -> None:
        if not self.closed:
            self.sent += self._connection.receive(data)

    def close(self, cause: str) -> None:
        self.closed = self.closed or cause

    def set_keep_alive(self, seconds: float) -> None:
        self.keep_alive = seconds

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Peer:
    """A client at the table."""

    table: Table
    client: Client
    stream: FakeStream
    seen: int = 0

    @property
    def code(self) -> int | None:
        """The CONNACK's code, None while there is none."""
        first = self.stream.sent[0] if self.stream.sent else None
        return first.code if isinstance(first, Connack) else None

    @property
    def present(self) -> bool:
        connack = self.stream.sent[0]
        assert isinstance(connack, Connack)
        return connack.session_present

    @property
    def closed(self) -> str:
        return self.stream.closed

    def says(self, *packets: Packet) -> Peer:
        """What the client sends in one go; then everything runs as far as it can."""
        self.client.packets(packets)
        self.table.run()
        return self

    def hears(self) -> list[Packet]:
        """What has come since the last time."""
        news = self.stream.sent[self.seen :]
        self.seen = len(self.stream.sent)
        return news

    def gets(self) -> list[tuple[str, bytes]]:
        """Topic and body of the publishes among what it hears."""
        return [(p.topic, p.payload) for p in self.hears() if isinstance(p, Publish)]

    def goes(self, cause: str = "the connection was closed", *, clean: bool = False) -> None:
        """The connection is gone."""
        self.stream.close(cause)
        self.client.lost(cause, clean)
        self.table.run()


@dataclass
class Table:
    """A hub's door with everything around it in memory."""

    policy: Policy = field(default_factory=lambda: Policy(hosts=frozenset({HUB})))
    house: House = field(default_factory=lambda: House(HUB, "test"))
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    endpoint: FakeEndpoint = field(default_factory=FakeEndpoint)
    subscriptions: FakeSubscriptions = field(default_factory=FakeSubscriptions)
    commands: FakeCommands = field(default_factory=FakeCommands)
    twins: FakeTwins | None = field(default_factory=FakeTwins)
    with_methods: bool = True
    tasks: FakeTasks = field(default_factory=FakeTasks)
    auditor: FakeAuditor = field(default_factory=FakeAuditor)
    presence: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions = Sessions(lambda identity, here: self.presence.append((str(identity), here)))
        self.methods = Methods(self.sessions, first=10) if self.with_methods else None
        around = Surroundings(
            registry=self.registry,
            endpoint=self.endpoint,
            subscriptions=self.subscriptions,
            commands=self.commands,
            sessions=self.sessions,
            tasks=self.tasks,
            clock=self.clock,
            twins=self.twins,
            methods=self.methods,
        )
        self.door = Door(self.house, around, self.policy, self.auditor)
        self.registry.put(registered(KEYS))

    def run(self) -> None:
        self.tasks.run()

    def opens(self, *, chain: tuple[bytes, ...] = (), attached: bool = True) -> Peer:
        """A connection without a word yet."""
        client, stream = Client(self.door), FakeStream(chain)
        if attached:
            client.attach(stream)
        return Peer(self, client, stream)

    def connects(
        self,
        who: str = "d1",
        password: str | bytes | None = "",
        *,
        chain: tuple[bytes, ...] = (),
        user_name: str | None = None,
        client_id: str | None = None,
        clean_session: bool = False,
        keep_alive: int = 60,
        will: Will | None = None,
    ) -> Peer:
        """A client connects; `password` "" stands for a good token. Runs until it waits or is answered."""
        peer = self.opens(chain=chain)
        secret = good_token(who) if password == "" else password
        packet = Connect(
            who if client_id is None else client_id,
            f"{HUB}/{who}/?api-version=2021-04-12" if user_name is None else user_name,
            secret.encode() if isinstance(secret, str) else secret,
            clean_session,
            keep_alive,
            will,
        )
        self.tasks.start(peer.client.connect(packet, peer.stream))
        self.run()
        return peer

    def arrives(self, who: str = "d1", **more: Any) -> Peer:
        """Connects and is accepted."""
        peer = self.connects(who, **more)
        assert peer.code == 0, self.auditor.records[-1:]
        peer.hears()
        return peer


def good_token(who: str, key: bytes = PRIMARY, expires_in: int = 3600) -> str:
    device, _, module = who.partition("/")
    return sign(key, resource_text(HUB, device, module or None), int(NOW.timestamp()) + expires_in)


def acknowledged(packets: Sequence[Packet]) -> list[int]:
    """The identifiers of PUBACKs among packets."""
    return [packet.packet_id for packet in packets if isinstance(packet, Puback)]


def granted(packets: Sequence[Packet]) -> list[tuple[int, ...]]:
    """The codes of SUBACKs among packets."""
    return [packet.codes for packet in packets if isinstance(packet, Suback)]
