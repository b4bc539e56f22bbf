"""What ends a session from our side: time, a change of the registry, another connection."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgetrust.protocol.mqtt.packets import Publish, Will
from edgetrust.trust.identity import Identity
from support.decisions import DEVICE_1, HUB, KEYS, MODULE_1, NOW, Pki, by_thumbprint, registered
from support.fakes import Peer, Table, good_token

SKEW = 300


@pytest.fixture
def table() -> Table:
    table = Table()
    table.registry.put(registered(KEYS, MODULE_1))
    table.registry.put(registered(KEYS, Identity(HUB, "d2")))
    table.registry.put(registered(KEYS, Identity(HUB, "gw", "$edgeHub")))
    return table


def expires(table: Table, seconds: float) -> None:
    table.sessions.expire(NOW + timedelta(seconds=seconds))


def lives(table: Table, seconds: int, who: str = "d1") -> Peer:
    return table.arrives(who, password=good_token(who, expires_in=seconds))


def test_in_the_order_of_their_ends(table: Table) -> None:
    late, soon, never = lives(table, 200), lives(table, 100, "d2"), lives(table, 10**9, "d1/m1")
    expires(table, 100 + SKEW - 1)
    assert not soon.closed
    expires(table, 100 + SKEW)
    assert soon.closed == "credential expired"
    assert not late.closed
    expires(table, 200 + SKEW)
    assert late.closed
    assert not never.closed


def test_a_renewed_token_on_a_new_connection(table: Table) -> None:
    """The SDKs renew by connecting again: the end of the old token must not end the new connection."""
    old = lives(table, 100)
    new = lives(table, 1000)
    old.goes()
    expires(table, 100 + SKEW)
    assert not new.closed
    expires(table, 1000 + SKEW)
    assert new.closed


def test_an_expired_client_is_lost_like_any_other(table: Table) -> None:
    peer = table.arrives(will=Will("devices/d1/messages/events/", b"gone"))
    expires(table, 10**6)
    peer.says(Publish("devices/d1/messages/events/", b"late"))
    peer.goes()
    assert [m.body for m in table.endpoint.messages] == [b"gone"]
    expires(table, 10**7)


def test_a_registration_concerns_the_device_and_its_modules(table: Table) -> None:
    device, module, other = table.arrives(), table.arrives("d1/m1"), table.arrives("d2")
    assert {str(s.identity) for s in table.sessions.concerned(DEVICE_1)} == {"d1", "d1/m1"}
    assert [str(s.identity) for s in table.sessions.concerned(MODULE_1)] == ["d1/m1"]
    assert table.sessions.concerned(Identity(HUB, "nobody")) == []
    device.goes()
    assert [str(s.identity) for s in table.sessions.concerned(DEVICE_1)] == ["d1/m1"]
    module.goes()
    assert table.sessions.concerned(DEVICE_1) == []
    assert len(table.sessions) == 1
    assert [str(s.identity) for s in table.sessions] == ["d2"]
    other.goes()
    assert table.presence == [(w, h) for h in (True, False) for w in ("d1", "d1/m1", "d2")]


def test_two_modules_of_a_device(table: Table) -> None:
    table.registry.put(registered(KEYS, Identity(HUB, "d1", "m2")))
    first, _second = table.arrives("d1/m1"), table.arrives("d1/m2")
    first.goes()
    assert [str(s.identity) for s in table.sessions.concerned(DEVICE_1)] == ["d1/m2"]


def test_only_gateways_are_told_to_forget_their_scope(table: Table) -> None:
    table.registry.below = {("leaf", "gw")}
    gateway, device = table.arrives("gw/$edgeHub"), table.arrives()
    gateway.says(Publish("devices/leaf/messages/events/", b"1"))
    device.says(Publish("devices/d1/messages/events/", b"2"))
    table.sessions.forget_scopes()
    gateway.says(Publish("devices/leaf/messages/events/", b"3"))
    assert table.registry.asked_below == ["leaf", "leaf"]
    gateway.goes()
    table.sessions.forget_scopes()
    assert len(table.sessions._gateways) == 0


def test_a_gateway_that_is_replaced(table: Table) -> None:
    old, new = table.arrives("gw/$edgeHub"), table.arrives("gw/$edgeHub")
    old.goes()
    assert len(table.sessions._gateways) == 1
    new.goes()
    assert len(table.sessions._gateways) == 0


def test_nobody_is_told_when_nobody_listens(table: Table) -> None:
    table.sessions._observer = None
    table.arrives().goes()
    assert table.presence == []


def test_ends_of_sessions_that_are_gone_are_let_go(table: Table) -> None:
    """A certificate lives for years; a device that reconnects every minute must not fill the memory until then."""
    stay = lives(table, 100, "d2")
    for _ in range(1000):
        lives(table, 10**6).goes()
    assert len(table.sessions._ends) < 100
    expires(table, 100 + SKEW)
    assert stay.closed == "credential expired"


def test_a_session_without_an_end(table: Table) -> None:
    peer = table.arrives()
    session = table.sessions.of(DEVICE_1)
    assert session is not None
    table.sessions.renew(session, None)
    for _ in range(200):
        lives(table, 100, "d2").goes()
    expires(table, 10**6)
    assert not peer.closed
    table.sessions.renew(session, None)
    table.sessions.renew(session, NOW)
    expires(table, 0)
    assert peer.closed


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_how_a_certificate_is_told(table: Table, slot: str) -> None:
    pki = Pki()
    first, second = pki.device(), pki.device()
    table.registry.put(registered(by_thumbprint(first, second)))
    from cryptography.hazmat.primitives.serialization import Encoding

    shown = first if slot == "primary" else second
    peer = table.arrives(password=None, chain=(shown.end_entity.public_bytes(Encoding.DER),))
    peer.says(Publish("devices/d1/messages/events/", b"x"))
    (message,) = table.endpoint.messages
    assert '"type":"x509Certificate","issuer":"external"' in message.auth_method
