"""One target per parser that a peer can reach: bytes in, and only the parser's documented exception is let pass.

What a parser accepted must also survive what is done with it next: writing it again, comparing, validating.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache

from edgetrust.errors import UsageError
from edgetrust.pki.chain import Chain, ChainError, Thumbprint, ThumbprintError, TrustBundle
from edgetrust.pki.csr import CsrError, parse_csr
from edgetrust.pki.issue import self_signed
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import ROOT
from edgetrust.pki.softkeys import SoftKey
from edgetrust.pki.verify import Purpose, verify_chain
from edgetrust.protocol import bulk, est, iothub, methods, registry, sas, twin
from edgetrust.protocol.client_hello import HelloError, HelloReader
from edgetrust.protocol.dps import bodies as dps_bodies
from edgetrust.protocol.dps import names as dps_names
from edgetrust.protocol.dps import topics as dps_topics
from edgetrust.protocol.dps.enrollments import Kind, parse_enrollment
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.protocol.edge_routes import RouteTable, mend, read_edge_hub
from edgetrust.protocol.iothub import connection_strings, identifiers, properties, topics, usernames
from edgetrust.protocol.messages import Message
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.connection import MqttConnection, Role, State
from edgetrust.protocol.mqtt.faults import MqttProtocolError
from edgetrust.protocol.mqtt.packets import Connack, Packet
from edgetrust.transport.tls.contexts import ServerContext
from edgetrust.transport.tls.engine import TlsError

Target = Callable[[bytes], None]

_NOW = datetime(2026, 6, 1, tzinfo=UTC)
_KEY = b"k" * 32
_PIECES = 100


# MQTT ---------------------------------------------------------------------------------------------------------------


def _mqtt(role: Role, data: bytes) -> None:
    """The same packets and the same fault, in one piece and in many: byte by byte where that is not too long."""
    size = max(1, len(data) // _PIECES)
    whole, pieces = _received(role, [data]), _received(role, [data[at : at + size] for at in range(0, len(data), size)])
    if whole != pieces:
        raise AssertionError(f"in one piece {whole}, in pieces {pieces}")
    for packet in whole[0]:
        with suppress(UsageError):  # a QoS that was asked for and is not granted, say
            encode(packet)


def _received(role: Role, pieces: list[bytes]) -> tuple[list[Packet], str]:
    connection, packets = MqttConnection(role), list[Packet]()
    try:
        for piece in pieces:
            packets += connection.receive(piece)
            if connection.state is State.DECIDING:
                connection.send(Connack(False, 0))
                packets += connection.accept()
    except MqttProtocolError as fault:
        return [*packets, *fault.before], fault.reason
    return packets, ""


# Texts --------------------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _sas_token(data: bytes) -> None:
    with suppress(sas.SasError):
        token = sas.parse_token(_text(data))
        assert sas.parse_token(sas.format_token(token)) == token
        sas.resource_parts(token)
        sas.covers(token, {"hub.example"}, "d", "m")
        sas.signature_matches(token, _KEY)


def _sas_key(data: bytes) -> None:
    with suppress(sas.KeyFormatError):
        sas.decode_key(_text(data))


def _user_name(data: bytes) -> None:
    with suppress(usernames.UserNameError):
        name = usernames.parse_user_name(_text(data))
        assert usernames.parse_user_name(usernames.format_user_name(name)).client_id == name.client_id
    with suppress(dps_names.DpsUserNameError):
        dps_names.parse_dps_user_name(_text(data))
    with suppress(identifiers.AuthChainError):
        identifiers.parse_auth_chain(_text(data))


def _topic(data: bytes) -> None:
    text = _text(data)
    for parse in (topics.parse_publish_topic, topics.parse_delivery_topic, topics.parse_filter):
        with suppress(iothub.TopicError):
            parse(text)
    dps_topics.parse_dps_topic(text)


def _connection_string(data: bytes) -> None:
    with suppress(connection_strings.ConnectionStringError):
        parsed = connection_strings.parse_connection_string(_text(data))
        assert connection_strings.parse_connection_string(connection_strings.format_connection_string(parsed)) == parsed


def _property_bag(data: bytes) -> None:
    parsed = properties.parse_properties(_text(data))
    assert properties.parse_properties(properties.format_properties(parsed)) == parsed


def _thumbprint(data: bytes) -> None:
    with suppress(ThumbprintError):
        found = Thumbprint.parse(_text(data))
        assert Thumbprint.parse(str(found)) == found


# Certificates -------------------------------------------------------------------------------------------------------


@cache
def _root(name: str) -> tuple[Chain, SoftKey]:
    key = SoftKey.generate(name, KeyAlgorithm.P256)
    return self_signed(key, ROOT, Names(name), _NOW), key


@cache
def _bundle() -> TrustBundle:
    """A root that nothing in the corpus leads to, so that failures are explained too."""
    return TrustBundle(_root("fuzz root")[0].certificates, as_of=_NOW)


def _validated(chain: Chain) -> None:
    for purpose in Purpose:
        verify_chain(chain, _bundle(), purpose, _NOW)
    verify_chain(chain, _bundle().with_(anchors=chain.certificates), Purpose.SERVER, _NOW, name="gateway.example")


def _chain_pem(data: bytes) -> None:
    with suppress(ChainError):
        chain = Chain.from_pem(data)
        assert Chain.from_pem(chain.pem()) == chain
        _validated(chain)


def _chain_der(data: bytes) -> None:
    """The first certificate, and all that follows as a second one."""
    size = int.from_bytes(data[2:4], "big") + 4
    with suppress(ChainError):
        _validated(Chain.from_der([piece for piece in (data[:size], data[size:]) if piece]))


def _csr(data: bytes) -> None:
    with suppress(CsrError):
        parse_csr(data)
    with suppress(CsrError):
        parse_csr(data, _root("fuzz root")[1].public_key())


def _est(data: bytes) -> None:
    with suppress(est.EstBodyError):
        assert est.decode(est.encode(est.decode(data))) == est.decode(data)
    est.parse_path(_text(data))


# Bodies -------------------------------------------------------------------------------------------------------------


def _registry_body(data: bytes) -> None:
    for parse in (
        *(registry.parse_device, registry.parse_module, registry.parse_modules, registry.parse_scope_listing),
        *(registry.parse_scope_request, registry.parse_scope_lookup, registry.parse_on_behalf_request),
        *(bulk.parse_items,),
    ):
        with suppress(registry.BodyError):
            parse(data)
    with suppress(registry.BodyError):
        registry.parse_scope_id(_text(data))
    registry.etag_of(_text(data))


def _twin_body(data: bytes) -> None:
    for parse in (twin.parse_patch, twin.parse_draft):
        with suppress(twin.TwinError):
            parse(data)
    with suppress(methods.MethodError):
        methods.parse_method_call(data)


def _edge_routes(data: bytes) -> None:
    """What a deployment wants of a gateway, as JSON; or one route, as text. Reading it never fails, nor using it."""
    desired: twin.Json = {"routes": {"r": _text(data)}}
    with suppress(twin.TwinError):
        desired = twin.parse_patch(data)
    config = read_edge_hub(desired)
    left = read_edge_hub(mend(desired, {}, config.problems))
    assert {one.place.partition(".")[0] for one in left.problems}.isdisjoint({"routes", "storeAndForwardConfiguration"})
    for module in (None, "m"):
        message = Message("d", module, "%24.on=o&level=1", b'{"t": 1}', 0, "", "Telemetry")
        assert RouteTable(config).choose(message) == RouteTable(left).choose(message)


def _dps_body(data: bytes) -> None:
    with suppress(DpsError):
        dps_bodies.parse_register(data)
    for kind in Kind:
        with suppress(DpsError):
            parse_enrollment(data, kind, "d")


# TLS ----------------------------------------------------------------------------------------------------------------


@cache
def _server() -> ServerContext:
    return ServerContext(*_root("gateway.example"))


def _tls(data: bytes) -> None:
    """What a client sends before it has proven anything, in two pieces; an alert may be left to send."""
    engine = _server().engine()
    engine.start()
    middle = len(data) // 2
    with suppress(TlsError):
        engine.feed(data[:middle])
        engine.feed(data[middle:])
    engine.take()
    assert not engine.handshake_done


def _client_hello(data: bytes) -> None:
    """The same name and the same fault, in one piece and in many."""
    size = max(1, len(data) // _PIECES)
    whole, pieces = _greeted([data]), _greeted([data[at : at + size] for at in range(0, len(data), size)])
    if whole != pieces:
        raise AssertionError(f"in one piece {whole}, in pieces {pieces}")


def _greeted(pieces: list[bytes]) -> tuple[bool, str | None, str]:
    reader = HelloReader()
    try:
        for piece in pieces:
            if not reader.complete:
                reader.feed(piece)
    except HelloError as fault:
        return False, None, fault.reason
    return reader.complete, reader.name, ""


TARGETS: dict[str, Target] = {
    "chain-der": _chain_der,
    "chain-pem": _chain_pem,
    "client-hello": _client_hello,
    "connection-string": _connection_string,
    "csr": _csr,
    "dps-body": _dps_body,
    "edge-routes": _edge_routes,
    "est": _est,
    "mqtt-client": lambda data: _mqtt("client", data),
    "mqtt-server": lambda data: _mqtt("server", data),
    "property-bag": _property_bag,
    "registry-body": _registry_body,
    "sas-key": _sas_key,
    "sas-token": _sas_token,
    "thumbprint": _thumbprint,
    "tls": _tls,
    "topic": _topic,
    "twin-body": _twin_body,
    "user-name": _user_name,
}
