"""At the door: who gets in, who does not, what each is told, and that a refusal changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.broker.claim import House
from edgetrust.errors import IntegrityError, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.protocol.mqtt.packets import Connack, Pingreq, Pingresp, Publish, Will
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import CertificateAuthority, Missing, MissingWhy, SasKeys
from edgetrust.trust.verdict import Accepted, Reason, Refused
from support.decisions import DEVICE_1, HUB, KEYS, MODULE_1, NOW, Pki, by_thumbprint, registered
from support.fakes import Gate, Peer, Table, good_token

OTHER_KEY = b"x" * 32
TOPIC = "devices/d1/messages/events/"


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def der(chain: Chain) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain.certificates)


def put(table: Table, authentication: object, **changes: object) -> None:
    table.registry.put(registered(authentication, **changes))  # type: ignore[arg-type]


Attempt = Callable[[Table, Pki], Peer]


def expired_certificate(table: Table, pki: Pki) -> Peer:
    chain = pki.expired()
    put(table, by_thumbprint(chain))
    return table.connects(password=None, chain=der(chain))


def certificate_of_another(table: Table, pki: Pki) -> Peer:
    put(table, by_thumbprint(pki.device()))
    return table.connects(password=None, chain=der(pki.device("intruder")))


def chain_of_another_ca(table: Table, pki: Pki) -> Peer:
    put(table, CertificateAuthority())
    table.registry.anchors = pki.bundle()
    return table.connects(password=None, chain=der(Pki().device()))


def wrong_password_beside_a_good_certificate(table: Table, pki: Pki) -> Peer:
    chain = pki.device()
    put(table, by_thumbprint(chain))
    return table.connects(password="wrong", chain=der(chain))


def disabled(table: Table, pki: Pki) -> Peer:
    put(table, KEYS, enabled=False)
    return table.connects()


def registry_away(table: Table, pki: Pki) -> Peer:
    table.registry.fault = UnavailableError("the database does not answer")
    return table.connects()


def registry_contradicts_itself(table: Table, pki: Pki) -> Peer:
    table.registry.fault = IntegrityError("a row without its key", reason="store-row")
    return table.connects()


def not_a_child(table: Table, pki: Pki) -> Peer:
    table.registry.missing = Missing(MissingWhy.NOT_A_CHILD, NOW)
    return table.connects("stranger")


def wildcard(who: str) -> Attempt:
    """Registered, since REST takes such names; over MQTT they would be filters."""

    def attempt(table: Table, pki: Pki) -> Peer:
        device, _, module = who.partition("/")
        table.registry.put(registered(KEYS, Identity(HUB, device, module or None)))
        return table.connects(who)

    return attempt


def stored_sessions_away(table: Table, pki: Pki) -> Peer:
    table.subscriptions.load_fault = UnavailableError("the database does not answer")
    return table.connects()


REFUSALS: list[tuple[str, Attempt, int, Reason]] = [
    ("no user name", lambda t, _: t.connects(user_name=""), 4, Reason.USER_NAME_MALFORMED),
    ("user name of another service", lambda t, _: t.connects(user_name="bob"), 4, Reason.USER_NAME_MALFORMED),
    ("no api-version", lambda t, _: t.connects(user_name=f"{HUB}/d1/?x=1"), 4, Reason.USER_NAME_MALFORMED),
    ("wildcard in the device", wildcard("d#1"), 4, Reason.USER_NAME_MALFORMED),
    ("wildcard in the module", wildcard("d1/m+1"), 4, Reason.USER_NAME_MALFORMED),
    ("U+0000 in the device", lambda t, _: t.connects("d\0"), 4, Reason.USER_NAME_MALFORMED),
    (
        "another hub",
        lambda t, _: t.connects(user_name="other.example/d1/?api-version=2021-04-12"),
        5,
        Reason.HUB_NAME_UNKNOWN,
    ),
    ("client identifier of another", lambda t, _: t.connects(client_id="d2"), 2, Reason.CLIENT_IDENTIFIER_MISMATCH),
    ("client identifier in capitals", lambda t, _: t.connects(client_id="D1"), 2, Reason.CLIENT_IDENTIFIER_MISMATCH),
    ("nobody knows it", lambda t, _: t.connects("stranger"), 5, Reason.UNKNOWN_IDENTITY),
    ("not below this gateway", not_a_child, 5, Reason.NOT_A_CHILD),
    ("nothing shown", lambda t, _: t.connects(password=None), 5, Reason.NO_CREDENTIAL),
    ("a key instead of a token", lambda t, _: t.connects(password="cHBwcA=="), 5, Reason.SAS_MALFORMED),
    ("no text", lambda t, _: t.connects(password=b"\xff\xfe"), 5, Reason.SAS_MALFORMED),
    (
        "another key",
        lambda t, _: t.connects(password=good_token("d1", OTHER_KEY)),
        5,
        Reason.SAS_SIGNATURE_MISMATCH,
    ),
    ("expired", lambda t, _: t.connects(password=good_token("d1", expires_in=-301)), 5, Reason.SAS_EXPIRED),
    ("token of another", lambda t, _: t.connects(password=good_token("d2")), 5, Reason.SAS_OTHER_RESOURCE),
    ("disabled", disabled, 5, Reason.DISABLED),
    ("expired certificate", expired_certificate, 5, Reason.CERTIFICATE_EXPIRED),
    ("unknown certificate", certificate_of_another, 5, Reason.THUMBPRINT_MISMATCH),
    ("another CA", chain_of_another_ca, 5, Reason.CHAIN_UNTRUSTED),
    ("wrong password, good certificate", wrong_password_beside_a_good_certificate, 5, Reason.SAS_MALFORMED),
    ("registry away", registry_away, 3, Reason.REGISTRY_UNAVAILABLE),
    ("registry contradicts itself", registry_contradicts_itself, 3, Reason.REGISTRY_UNAVAILABLE),
    ("stored sessions away", stored_sessions_away, 3, Reason.REGISTRY_UNAVAILABLE),
]


@pytest.mark.parametrize(("attempt", "code", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refused(table: Table, pki: Pki, attempt: Attempt, code: int, reason: Reason) -> None:
    """One CONNACK, a close, one record with the failed check; nothing else has changed."""
    peer = attempt(table, pki)
    assert peer.stream.sent == [Connack(False, code)]
    assert peer.closed == f"refused: {reason}"
    (record,) = table.auditor.records
    assert (record.accepted, record.reason) == (False, reason.value)
    assert not record.checks[-1].passed
    assert record.checks[-1].detail
    assert (record.place, record.peer, record.at) == ("test", "192.0.2.7:40000", NOW)
    assert len(table.sessions) == 0
    assert table.presence == []
    assert table.endpoint.batches == []
    assert table.subscriptions.stored == {}
    assert peer.stream.keep_alive is None
    peer.says(Publish(TOPIC, b"still here?", 0), Pingreq())  # what came behind the CONNECT goes nowhere
    assert table.endpoint.batches == []
    peer.goes()
    assert len(table.auditor.records) == 1


@pytest.mark.parametrize(("attempt", "code", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_wrong_connect_never_disturbs_the_connected_client(
    table: Table, pki: Pki, attempt: Attempt, code: int, reason: Reason
) -> None:
    good = table.arrives()
    table.subscriptions.stored["d1"] = {"devices/d1/messages/devicebound/#": 1}
    before = dict(table.subscriptions.stored)
    wrong = attempt(table, pki)
    assert wrong.code == code
    assert not good.closed
    good.says(Publish(TOPIC, b"x", 1, packet_id=9), Pingreq())
    assert [type(packet).__name__ for packet in good.hears()] == ["Pingresp", "Puback"]
    assert table.presence == [("d1", True)]
    assert table.subscriptions.stored == before
    assert table.auditor.refusals[-1].reason == reason.value


def test_what_is_recorded_of_an_unreadable_claim(table: Table) -> None:
    table.connects(user_name="bob", client_id="c7")
    assert table.auditor.records[0].identity == "c7 as bob"
    table.connects(user_name="x" * 4000, client_id="y" * 4000)
    assert len(table.auditor.records[1].identity) == 300


def test_accepted(table: Table) -> None:
    peer = table.connects(keep_alive=100)
    assert peer.stream.sent == [Connack(False, 0)]
    assert peer.stream.keep_alive == 150
    (record,) = table.auditor.records
    assert (record.accepted, record.identity, record.reason) == (True, "d1", "sas-primary-key")
    assert table.presence == [("d1", True)]
    assert table.sessions.of(DEVICE_1) is not None


@pytest.mark.parametrize(("asked", "allowed"), [(0, 1177 * 1.5), (1, 1.5), (1177, 1177 * 1.5), (65535, 1177 * 1.5)])
def test_keep_alive(table: Table, asked: int, allowed: float) -> None:
    assert table.arrives(keep_alive=asked).stream.keep_alive == allowed


@pytest.mark.parametrize("host", [HUB, HUB.upper(), f"{HUB}:8883", "[::1]", "[::1]:18883"])
def test_our_names(host: str) -> None:
    table = Table()
    table.door._policy = replace(table.policy, hosts=frozenset({HUB, "::1"}))
    assert table.connects(user_name=f"{host}/d1/?api-version=2021-04-12").code == 0


def test_a_gateway_takes_any_host(table: Table) -> None:
    gateway = Table(house=House(HUB, "gateway-mqtt", any_host=True))
    assert gateway.connects(user_name="gateway.local/d1/?api-version=2021-04-12").code == 0
    assert gateway.auditor.records[0].place == "gateway-mqtt"


def test_a_module(table: Table) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    table.arrives("d1/m1")
    assert table.presence == [("d1/m1", True)]


class TestTakeOver:
    def test_the_new_connection_closes_the_old_one(self, table: Table) -> None:
        old = table.arrives()
        new = table.arrives()
        assert old.closed == "taken over by a new connection of the same identity"
        assert old.hears() == []  # no packet says so
        old.goes()
        assert not new.closed
        assert table.sessions.of(DEVICE_1) is not None
        assert table.presence == [("d1", True)]
        new.says(Pingreq())
        assert new.hears() == [Pingresp()]
        new.goes()
        assert table.presence == [("d1", True), ("d1", False)]

    def test_only_after_accept_and_record(self, table: Table) -> None:
        old = table.arrives()
        table.subscriptions.gate = Gate(is_open=False)
        new = table.connects()
        assert new.code is None
        assert not old.closed  # decided, but not yet on record
        assert len(table.auditor.records) == 1
        table.subscriptions.gate.is_open = True
        table.run()
        assert (new.code, bool(old.closed), len(table.auditor.records)) == (0, True, 2)

    def test_the_old_one_is_recorded_before_it_is_closed(self, table: Table) -> None:
        seen: list[str] = []
        old = table.arrives()
        record = table.auditor.record
        table.auditor.record = lambda one: (seen.append(old.closed), record(one))[1]  # type: ignore[method-assign]
        table.arrives()
        assert seen == [""]

    def test_device_and_module_are_two(self, table: Table) -> None:
        table.registry.put(registered(KEYS, MODULE_1))
        device, module = table.arrives(), table.arrives("d1/m1")
        assert not device.closed
        assert not module.closed


class TestWhileDeciding:
    def test_gone_before_the_registry_answers(self, table: Table) -> None:
        old = table.arrives()
        table.registry.gate = Gate(is_open=False)
        new = table.connects()
        new.goes()
        table.registry.gate.is_open = True
        table.run()
        assert not old.closed
        assert new.stream.sent == []
        assert table.presence == [("d1", True)]
        assert len(table.auditor.records) == 1

    def test_refused_though_gone_is_on_record(self, table: Table) -> None:
        table.registry.gate = Gate(is_open=False)
        peer = table.connects(password="wrong")
        peer.goes()
        table.registry.gate.is_open = True
        table.run()
        assert [record.reason for record in table.auditor.records] == ["sas-malformed"]
        assert peer.stream.sent == []

    def test_gone_while_it_is_decided_again(self, table: Table) -> None:
        """Accepted, overtaken by a change, and lost before the second answer: nothing stays behind."""
        table.subscriptions.gate = Gate(is_open=False)
        peer = table.connects(will=Will(TOPIC, b"gone"))
        table.registry.put(registered(KEYS))  # a change while the stored session is looked up
        table.registry.gate = Gate(is_open=False)
        table.subscriptions.gate.is_open = True
        table.run()
        assert peer.code == 0
        peer.goes()
        table.registry.gate.is_open = True
        table.run()
        assert len(table.sessions) == 0
        assert table.presence == [("d1", True), ("d1", False)]
        assert [message.body for message in table.endpoint.messages] == [b"gone"]
        peer.says(Pingreq())
        assert peer.stream.sent == [Connack(False, 0)]

    @pytest.mark.parametrize("waiting_for", ["registry", "subscriptions"])
    def test_disabled_before_it_is_answered(self, table: Table, waiting_for: str) -> None:
        """What was read before the change must not admit anybody."""
        table.commands.put("d1", b"secret")
        table.subscriptions.stored["d1"] = {"devices/d1/messages/devicebound/#": 1}
        gate = Gate(is_open=False)
        getattr(table, waiting_for).gate = gate
        peer = table.connects(will=Will(TOPIC, b"will"))
        table.registry.put(registered(KEYS, enabled=False))
        gate.is_open = True
        table.run()
        assert peer.closed == "decided again: disabled"
        assert [record.reason for record in table.auditor.records] == ["sas-primary-key", "disabled"]
        assert not any(isinstance(packet, Publish) for packet in peer.stream.sent)
        peer.goes()
        assert table.endpoint.batches == []  # nothing of it is taken any more, its will neither
        assert len(table.sessions) == 0

    def test_changed_but_still_good(self, table: Table) -> None:
        table.registry.gate = Gate(is_open=False)
        peer = table.connects()
        table.registry.put(registered(KEYS, Identity(HUB, "d9")))
        table.registry.gate.is_open = True
        table.run()
        assert peer.code == 0
        assert not peer.closed
        assert table.registry.asked == ["d1", "d1"]


class TestDecidedAgain:
    def decide(self, table: Table, identity: Identity = DEVICE_1) -> Accepted | Refused | None:
        session = table.sessions.of(identity)
        assert session is not None
        verdicts: list[Accepted | Refused | None] = []

        async def work() -> None:
            verdicts.append(await table.door.decide_again(session))

        table.tasks.start(work())
        table.run()
        return verdicts[0]

    def test_still_good(self, table: Table) -> None:
        peer = table.arrives()
        assert isinstance(self.decide(table), Accepted)
        assert not peer.closed
        assert len(table.auditor.records) == 1

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"enabled": False}, Reason.DISABLED),
            ({"authentication": SasKeys(KEYS.secondary, KEYS.secondary)}, Reason.SAS_SIGNATURE_MISMATCH),
            ({"authentication": CertificateAuthority()}, Reason.WRONG_KIND_OF_CREDENTIAL),
        ],
    )
    def test_not_any_more(self, table: Table, change: dict[str, object], reason: Reason) -> None:
        peer = table.arrives(will=Will(TOPIC, b"will"))
        table.registry.put(registered(**{"authentication": KEYS, **change}))  # type: ignore[arg-type]
        assert isinstance(self.decide(table), Refused)
        assert peer.closed == f"decided again: {reason}"
        assert peer.hears() == []
        assert table.auditor.records[-1].reason == reason.value
        peer.says(Publish(TOPIC, b"x"))
        peer.goes()
        assert table.endpoint.batches == []

    def test_deleted(self, table: Table) -> None:
        peer = table.arrives()
        table.registry.registrations.clear()
        self.decide(table)
        assert peer.closed == "decided again: unknown-identity"

    def test_thumbprint_removed(self, table: Table, pki: Pki) -> None:
        first, second = pki.device(), pki.device()
        put(table, by_thumbprint(first, second))
        peer = table.arrives(password=None, chain=der(second))
        put(table, by_thumbprint(first))
        self.decide(table)
        assert peer.closed == "decided again: thumbprint-unknown-subject-known"

    def test_ca_retired(self, table: Table, pki: Pki) -> None:
        put(table, CertificateAuthority())
        table.registry.anchors = pki.bundle()
        peer = table.arrives(password=None, chain=der(pki.device()))
        assert isinstance(self.decide(table), Accepted)
        table.registry.anchors = Table().registry.anchors
        self.decide(table)
        assert peer.closed.startswith("decided again: chain-")

    @pytest.mark.parametrize("fault", [UnavailableError("away"), IntegrityError("odd", reason="store-row")])
    def test_not_knowing_is_no_reason(self, table: Table, fault: Exception) -> None:
        peer = table.arrives()
        table.registry.fault = fault
        verdict = self.decide(table)
        assert isinstance(verdict, Refused)
        assert verdict.reason is Reason.REGISTRY_UNAVAILABLE
        assert not peer.closed
        assert len(table.auditor.records) == 1

    def test_gone_meanwhile(self, table: Table) -> None:
        peer = table.arrives()
        session = table.sessions.of(DEVICE_1)
        assert session is not None
        table.registry.put(registered(KEYS, enabled=False))
        table.registry.gate = Gate(is_open=False)
        verdicts: list[object] = []

        async def work() -> None:
            verdicts.append(await table.door.decide_again(session))

        table.tasks.start(work())
        table.run()
        peer.goes()
        table.registry.gate.is_open = True
        table.run()
        assert verdicts == [None]
        assert len(table.auditor.records) == 1

    def test_a_longer_validity_is_honoured(self, table: Table, pki: Pki) -> None:
        soon = NOW + timedelta(hours=1)
        chain = pki.device()
        put(table, CertificateAuthority())
        table.registry.anchors = pki.bundle()
        peer = table.arrives(password=None, chain=der(chain))
        session = table.sessions.of(DEVICE_1)
        assert session is not None
        assert session.valid_until == chain.end_entity.not_valid_after_utc
        table.sessions.renew(session, soon)
        table.clock.jump(soon - timedelta(seconds=1))
        table.sessions.expire(table.clock.now())
        assert not peer.closed
        self.decide(table)  # later again: the end that was armed before must not fire
        assert session.valid_until == chain.end_entity.not_valid_after_utc
        table.clock.jump(soon + timedelta(seconds=1))
        table.sessions.expire(table.clock.now())
        assert not peer.closed
        table.sessions.expire(chain.end_entity.not_valid_after_utc)
        assert peer.closed == "credential expired"

    def test_a_shorter_validity_is_honoured(self, table: Table) -> None:
        peer = table.arrives()
        session = table.sessions.of(DEVICE_1)
        assert session is not None
        table.sessions.renew(session, NOW + timedelta(seconds=10))
        table.sessions.expire(NOW + timedelta(seconds=9))
        assert not peer.closed
        table.sessions.expire(NOW + timedelta(seconds=10))
        assert peer.closed == "credential expired"
