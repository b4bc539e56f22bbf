"""One device's line to its hub, straight or through a gateway: sends, listens, and comes back after a lost
connection.

Rules: 1. The hub's name stands in the user name and in the SAS token, also behind a gateway; the gateway's name is
what is dialled and what its certificate must cover. 2. `send` returns when the message is acknowledged. A message
whose acknowledgement was lost with the connection is sent again: at least once, never silently less. 3. The first
connection is tried once, so that a mistake is seen at once. A lost one is tried again with growing pauses until
`give_up_seconds` have passed. A refusal is final: the same credential would be refused again. 4. Tokens are made anew
for every connection; when one runs out the server ends the connection and rule 3 brings it back.

It must not know registries, files or terminals.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgetrust import __version__, limits
from edgetrust.clock import Clock, SystemClock
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.keys import SecretBytes, TlsKey
from edgetrust.protocol.iothub import (
    MethodRequestTopic,
    Subscription,
    SubscriptionKind,
    TwinDesiredTopic,
    TwinResponseTopic,
    UserName,
    client_id_for,
    filter_for,
    format_properties,
    format_user_name,
    method_response_topic,
    parse_delivery_topic,
    parse_properties,
    telemetry_topic,
    twin_patch_topic,
)
from edgetrust.protocol.mqtt.packets import Connect, Publish
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.transport.mqtt import ConnectionLostError, MqttClient, connect_mqtt
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.transport.tls.engine import TlsError
from edgetrust.trust.identity import Identity

API_VERSION = "2021-04-12"
_REPORT = "report"  # the identifier of the one request that is under way
_NO_CONTENT = 204
_DELIVERY_ONLY = ("$.to",)  # what the hub adds for the way, of no use to an application


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to the hub. `hub` is its name; `host` and `port` what is dialled: the hub itself or a gateway.

    `address` is dialled in place of `host` where no name service knows it; what is verified stays `host`.
    """

    hub: str
    host: str
    port: int
    address: str | None = None

    def __str__(self) -> str:
        way = f"{self.host}, port {self.port}"
        return way if self.host == self.hub else f"{self.hub} through {way}"


@dataclass(frozen=True, slots=True)
class KeyCredential:
    """A symmetric key, decoded."""

    key: SecretBytes


@dataclass(frozen=True, slots=True)
class CertificateCredential:
    """A certificate, with its intermediates, and its key."""

    chain: Chain
    key: TlsKey


@dataclass(frozen=True, slots=True)
class Received:
    """A cloud-to-device message (or, for a module, a message to an input)."""

    body: bytes
    properties: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class MethodRequested:
    """A direct method was called; `answer` it. `payload` is JSON."""

    method: str
    payload: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class DesiredChanged:
    """The desired properties have changed by `patch`, JSON with the new `$version` in it."""

    patch: bytes
    version: int


Incoming = Received | MethodRequested | DesiredChanged


def silent(text: str) -> None:
    """Tell nobody."""


class DeviceSession:
    """`async with DeviceSession(...) as session`: open while the block runs."""

    def __init__(
        self,
        identity: Identity,
        route: Route,
        credential: KeyCredential | CertificateCredential,
        bundle: TrustBundle | None,
        *,
        give_up_seconds: float = limits.DEVICE_GIVE_UP_SECONDS,
        clock: Clock | None = None,
        tell: Callable[[str], None] = silent,
    ) -> None:
        """`bundle` None means the machine's trust store. Raises ConfigError or IntegrityError for unusable material."""
        self._identity, self._route, self._credential = identity, route, credential
        self._give_up_seconds, self._clock, self._tell = give_up_seconds, clock or SystemClock(), tell
        match credential:
            case CertificateCredential(chain, key):
                self._context = ClientContext(bundle, chain=chain, key=key, clock=self._clock)
            case KeyCredential():
                self._context = ClientContext(bundle, clock=self._clock)
        self._client: MqttClient | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connect. Raises ServerRefusedError, TlsError, ConnackError, UnavailableError."""
        self._client = await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.disconnect()

    async def send(self, body: bytes, properties: Mapping[str, str] | None = None) -> None:
        """Send telemetry, return when it is acknowledged. Raises ConnackError, ServerRefusedError, UnavailableError."""
        topic = telemetry_topic(self._identity.device, self._identity.module, format_properties(properties or {}))
        while True:
            client = await self._open()
            try:
                await client.publish(topic, body)
            except ConnectionLostError as problem:
                self._tell(problem.message)
            else:
                return

    async def incoming(self, *, methods: bool = False, twin: bool = False) -> AsyncGenerator[Incoming, None]:
        """What the hub sends to this device, without end: messages, and if wanted calls of methods and changes of the
        desired properties. Each is acknowledged when it was given out. Raises as `send`.
        """
        wanted = [self._filter()]
        wanted += [filter_for(Subscription(SubscriptionKind.METHODS))] if methods else []
        wanted += [filter_for(Subscription(SubscriptionKind.TWIN_DESIRED))] if twin else []
        while True:
            client = await self._open()
            try:
                await client.subscribe([(text, 1) for text in wanted])
                async for message in client.messages():
                    yield _incoming(message)
            except ConnectionLostError as problem:
                self._tell(problem.message)
            else:
                return

    async def answer(self, request: MethodRequested, status: int, payload: bytes) -> None:
        """Answer a direct method. It is not sent again when the connection is lost: the caller may have given up."""
        client = await self._open()
        try:
            await client.publish(method_response_topic(status, request.request_id), payload)
        except ConnectionLostError as problem:
            self._tell(problem.message)

    async def report(self, patch: bytes) -> int:
        """Patch the reported properties; their new version. Raises RefusedError for what the hub does not take, and as
        `send`.
        """
        while True:
            client = await self._open()
            try:
                await client.subscribe([(filter_for(Subscription(SubscriptionKind.TWIN_RESPONSES)), 1)])
                await client.publish(twin_patch_topic(_REPORT), patch)
                async for message in client.messages():
                    answer = parse_delivery_topic(message.topic)
                    if isinstance(answer, TwinResponseTopic) and answer.request_id == _REPORT:
                        return _reported(answer, message.payload)
            except ConnectionLostError as problem:
                self._tell(problem.message)

    async def _open(self) -> MqttClient:
        """The open connection, made again if it was lost."""
        async with self._connecting:
            if self._client is None or not self._client.is_open:
                self._client = await self._connect_again()
            return self._client

    async def _connect_again(self) -> MqttClient:
        until = self._clock.monotonic() + self._give_up_seconds
        pause = limits.DEVICE_RETRY_SECONDS
        while True:
            try:
                return await self._connect()
            except (UnavailableError, TlsError) as problem:
                if self._clock.monotonic() >= until:
                    raise
                self._tell(f"{problem.message}; trying again in {pause:.1f} s")
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - not every device at the same moment
            pause = min(2 * pause, limits.DEVICE_RETRY_MAX_SECONDS)

    async def _connect(self) -> MqttClient:
        route = self._route
        client = await connect_mqtt(
            route.address or route.host, route.port, self._context, self._packet(), server_name=route.host
        )
        self._tell(f"connected {self._identity} to {route}")
        return client

    def _packet(self) -> Connect:
        device, module = self._identity.device, self._identity.module
        client_type = {"DeviceClientType": f"edgetrust/{__version__}"}
        user_name = format_user_name(UserName(self._route.hub, device, module, API_VERSION, client_type))
        return Connect(client_id_for(device, module), user_name, self._password(), clean_session=True)

    def _password(self) -> bytes | None:
        match self._credential:
            case CertificateCredential():
                return None
            case KeyCredential(key):
                resource = resource_text(self._route.hub, self._identity.device, self._identity.module)
                expires_at = int(self._clock.now().timestamp()) + limits.DEVICE_TOKEN_SECONDS
                return sign(key.reveal(), resource, expires_at).encode()

    def _filter(self) -> str:
        device, module = self._identity.device, self._identity.module
        kind = SubscriptionKind.C2D if module is None else SubscriptionKind.INPUTS
        return filter_for(Subscription(kind, device, module))


def _incoming(message: Publish) -> Incoming:
    if not message.topic.startswith("$"):
        bag = parse_properties(message.topic.rpartition("/")[2])
        return Received(message.payload, {name: value for name, value in bag.items() if name not in _DELIVERY_ONLY})
    match parse_delivery_topic(message.topic):
        case MethodRequestTopic(method, request_id):
            return MethodRequested(method, message.payload, request_id)
        case TwinDesiredTopic(version):
            return DesiredChanged(message.payload, version)
        case other:
            raise AssertionError(other)  # nothing else was subscribed to


def _reported(answer: TwinResponseTopic, body: bytes) -> int:
    if answer.status == _NO_CONTENT and answer.version is not None:
        return answer.version
    raise RefusedError(f"the hub does not take the report: {_message(answer.status, body)}", reason="twin-refused")


def _message(status: int, body: bytes) -> str:
    """What an error's body says, or its status alone."""
    try:
        said = json.loads(body)["message"]
    except (ValueError, TypeError, KeyError):
        said = ""
    return f"status {status}: {said}" if said else f"status {status}"
