"""What the broker needs from the world. Each port is as wide as the broker uses it, not wider.

Durable work is a call with `done`: it returns at once and calls `done(None)` when the thing is on disk, or
`done(error)` when it will never be. Nothing is acknowledged to a peer before `done(None)`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.messages import Message
from edgetrust.protocol.twin import Json, Twin
from edgetrust.trust.audit import Record
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, Registration

Done = Callable[[BaseException | None], None]


class Registry(Protocol):
    """Where registrations come from: the hub's SQL, or a gateway's copy of its scope.

    `version` grows with every change, so that a decision that a change has overtaken is seen and made again.
    """

    @property
    def version(self) -> int: ...

    async def find(self, identity: Identity) -> Registration | Missing:
        """What is registered for `identity`. Raises UnavailableError when that cannot be known now."""
        ...

    async def is_below(self, device: str, gateway: Identity) -> bool:
        """Whether the registry says that `device` is below the edge device `gateway`, at any depth, and every gateway
        between them is enabled.
        """
        ...

    def bundle(self) -> TrustBundle:
        """The CAs that X.509 CA authentication accepts now."""
        ...


class Endpoint(Protocol):
    """Where messages go: the hub's event log, or a gateway's queue towards its hub."""

    def append(self, messages: Sequence[Message], done: Done) -> None: ...


class Stream(Protocol):
    """One connection, as the transport gives it."""

    @property
    def peer_chain(self) -> tuple[bytes, ...]: ...

    @property
    def peer_address(self) -> str: ...

    @property
    def is_closing(self) -> bool: ...

    def send(self, data: bytes) -> None: ...

    def close(self, cause: str) -> None: ...

    def set_keep_alive(self, seconds: float) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Subscriptions(Protocol):
    """The filters of clients that connect with CleanSession 0, kept across connections and restarts."""

    async def load(self, client_id: str) -> Mapping[str, int] | None:
        """Filter -> granted QoS of the stored session, None when there is none."""
        ...

    def save(self, client_id: str, filters: Mapping[str, int], done: Done) -> None: ...

    def discard(self, client_id: str, done: Done) -> None: ...


class Command(Protocol):
    """A cloud-to-device message that is leased to a connection. `deliveries` counts this one."""

    @property
    def sequence(self) -> int: ...

    @property
    def properties(self) -> str: ...

    @property
    def body(self) -> bytes: ...

    @property
    def deliveries(self) -> int: ...


class Commands(Protocol):
    """The queue of cloud-to-device messages of each device."""

    async def lease(self, device: str, limit: int, holding: Collection[int] = ()) -> Sequence[Command]:
        """The next messages that nobody holds. `holding`: sequences that the caller has and is not done with; it keeps
        them, and they are not counted as delivered again.
        """
        ...

    def complete(self, device: str, sequence: int, done: Done) -> None: ...

    def release(self, device: str) -> None:
        """Give back what was leased and not completed: it is delivered again to the next connection."""
        ...


class Routed(Command, Protocol):
    """A message that is leased to a module's connection, for its input `input`."""

    @property
    def input(self) -> str: ...


class Inputs(Protocol):
    """The queues of what is routed to the inputs of modules; methods as those of Commands."""

    async def lease(self, identity: Identity, limit: int, holding: Collection[int] = ()) -> Sequence[Routed]: ...

    def complete(self, identity: Identity, sequence: int, done: Done) -> None: ...

    def release(self, identity: Identity) -> None: ...


class Twins(Protocol):
    """The twins of devices and modules. Raises RegistryError 404 for whom there is none."""

    def note_client(self, device: str, module: str | None, model_id: str, product_info: str) -> None:
        """What a client said of itself when it connected, "" for nothing."""
        ...

    async def twin(self, device: str, module: str | None = None) -> Twin: ...

    async def report(self, device: str, patch: Json, *, module: str | None = None) -> int:
        """Merge what a device reports; the new version of its reported properties, once that is on disk. TwinError."""
        ...


class Auditor(Protocol):
    """Keeps decisions. Called before any effect of the decision."""

    def record(self, record: Record) -> None: ...


class Tasks(Protocol):
    """Starts a coroutine of the broker on the actor's loop; an error in it is logged and closes nothing else."""

    def start(self, work: Coroutine[Any, Any, None]) -> None: ...
