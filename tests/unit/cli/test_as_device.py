"""Options become a device: where to go, with which credential, trusting whom; and a refusal is explained."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli import as_device, traffic
from edgetrust.cli.as_device import DeviceOptions, connected, find_credential, find_route, host_and_port
from edgetrust.cli.demo_pki import DemoPki
from edgetrust.device.session import CertificateCredential, KeyCredential, Received
from edgetrust.errors import Error, RefusedError, UsageError
from edgetrust.pki.keys import SecretBytes
from edgetrust.transport.mqtt import ConnackError
from edgetrust.transport.tls.engine import ServerRefusedError

Call = Callable[..., Any]
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
READY = {"hub": {"hostname": "localhost", "mqtt_port": 1884}}


class Session:
    """Stands in for DeviceSession: remembers how it was made, does what the test wants."""

    made: list[tuple[Any, ...]]
    problem: Error | None
    sent: list[tuple[bytes, Any]]
    arriving: list[Received]

    def __init__(self, *given: Any, **options: Any) -> None:
        type(self).made.append((*given, options))

    async def __aenter__(self) -> Session:
        if self.problem is not None:
            raise self.problem
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, body: bytes, properties: Any) -> None:
        self.sent.append((body, properties))

    async def incoming(self, *, methods: bool = False, twin: bool = False) -> Any:
        for received in self.arriving:
            yield received
        await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    Session.made, Session.problem, Session.sent, Session.arriving = [], None, [], []
    monkeypatch.setattr(as_device, "DeviceSession", Session)
    return Session


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    return file


# Where to go --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("hub", "hub", None),
        ("hub:8884", "hub", 8884),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:8884", "::1", 8884),
        ("127.0.0.1:1", "127.0.0.1", 1),
    ],
)
def test_hosts_with_and_without_port(text: str, host: str, port: int | None) -> None:
    assert host_and_port(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":1", "hub:0", "hub:65536", "hub:x", "[::1]:x"])
def test_odd_hosts_are_usage(text: str) -> None:
    with pytest.raises(UsageError):
        host_and_port(text)


def route(**options: Any) -> tuple[str, str, int, str | None]:
    found = find_route(DeviceOptions("d1", **options), options.pop("ready", None) if "ready" in options else READY)
    return found.hub, found.host, found.port, found.address


def test_routes() -> None:
    assert route() == ("localhost", "localhost", 1884, None)
    assert route(hub="hub.example") == ("hub.example", "hub.example", 8883, None)
    assert route(hub="hub.example:1", port=2) == ("hub.example", "hub.example", 2, None)
    assert route(gateway="gw.local") == ("localhost", "gw.local", 8883, None)
    assert route(gateway="gw.local:9", address="10.0.0.2") == ("localhost", "gw.local", 9, "10.0.0.2")


@pytest.mark.parametrize("ready", [None, {}, {"hub": {"hostname": "h", "mqtt_port": None}}])
def test_a_hub_must_be_named(ready: Any) -> None:
    with pytest.raises(Error):
        find_route(DeviceOptions("d1"), ready)


# With which credential ----------------------------------------------------------------------------------------------


def test_a_key(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = KeyCredential(SecretBytes(b"0123456789abcdef"))
    assert find_credential(DeviceOptions("d1", key_file=key_file)) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO(KEY))
    assert find_credential(DeviceOptions("d1", key_file=Path("-"))) == expected


def test_a_certificate(demo: DemoPki) -> None:
    material = demo.sensor[0]
    found = find_credential(
        DeviceOptions("d1", cert=material.certificate_file, cert_key=material.key_file),
    )
    assert isinstance(found, CertificateCredential)
    assert found.chain == material.chain


def test_credentials_that_contradict(demo: DemoPki, key_file: Path) -> None:
    first, second = demo.sensor
    for options in (
        {"cert": first.certificate_file},
        {"cert_key": first.key_file},
        {"cert": first.certificate_file, "cert_key": first.key_file, "key_file": key_file},
        {"cert": first.certificate_file, "cert_key": second.key_file},
    ):
        with pytest.raises(Error):
            find_credential(DeviceOptions("d1", **options))  # type: ignore[arg-type]


def test_the_hub_of_a_directory_gives_the_key(edgetrust: Call, hub: Any, session: type[Session]) -> None:
    held = {"type": "sas", "symmetricKey": {"primaryKey": KEY}}
    hub.answer("GET", "/devices/d1", {"authentication": held})
    hub.answer("GET", "/devices/d1/modules/m1", {"authentication": {"type": "selfSigned"}})
    shown = edgetrust("device", "send", "d1", "--dir", hub.directory)
    assert shown.code == 0
    assert "using the primary key of d1 from the registry" in shown.err
    assert session.made[0][2] == KeyCredential(SecretBytes(b"0123456789abcdef"))
    missing = edgetrust("device", "send", "d1/m1", "--dir", hub.directory)
    assert (missing.code, "d1/m1 has no symmetric key" in missing.err) == (2, True)


def test_the_hub_of_up_in_this_directory_is_the_default(
    edgetrust: Call, hub: Any, session: type[Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_file: Path
) -> None:
    (tmp_path / "edgetrust-hub").symlink_to(hub.directory)
    monkeypatch.chdir(tmp_path)
    assert edgetrust("device", "send", "d1", "--key-file", key_file).code == 0
    assert session.made[0][1].hub == "localhost"


def test_without_a_directory_a_credential_must_be_given(edgetrust: Call) -> None:
    assert "no credential was given" in edgetrust("device", "send", "d1", "--hub", "localhost").err


def test_an_odd_identifier_is_usage(edgetrust: Call, key_file: Path) -> None:
    assert edgetrust("device", "send", "a/b/c", "--hub", "localhost", "--key-file", key_file).code == 2


def test_trust(edgetrust: Call, hub: Any, demo: DemoPki, key_file: Path, session: type[Session]) -> None:
    edgetrust("device", "send", "d1", "--dir", hub.directory, "--key-file", key_file)
    edgetrust("device", "send", "d1", "--hub", "h", "--key-file", key_file)
    edgetrust(
        *("device", "send", "d1", "--hub", "h", "--key-file", key_file),
        *("--trust", demo.intermediates[0].certificate_file),
    )
    bundles = [made[3] for made in session.made]
    assert bundles[0].anchors == demo.root.chain.certificates
    assert bundles[1] is None
    assert bundles[2].anchors == demo.intermediates[0].chain.certificates


# What becomes of it -------------------------------------------------------------------------------------------------


def test_messages_are_sent_with_properties(edgetrust: Call, key_file: Path, session: type[Session]) -> None:
    way = ("device", "send", "d1", "--hub", "h", "--key-file", key_file)
    shown = edgetrust(*way, "--count", "2", "--property", "a=b", "--json")
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2]
    assert [properties for _, properties in session.sent] == [{"a": "b"}] * 2
    assert json.loads(session.sent[1][0])["sequence"] == 2
    assert shown.err == "sent 2 messages, each acknowledged\n"
    assert edgetrust(*way, "--message", "x").err == "sent 1 message, each acknowledged\n"


def test_standard_input_is_sent_line_by_line(
    edgetrust: Call, key_file: Path, session: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    edgetrust("device", "send", "d1", "--hub", "h", "--key-file", key_file, "--message", "-")
    assert [body for body, _ in session.sent] == [b"one", b"two"]


def test_listening(edgetrust: Call, key_file: Path, session: type[Session]) -> None:
    session.arriving = [Received(b"hi", {"a": "b", "flag": None}), Received(b"\xff", {})]
    way = ("device", "listen", "d1", "--hub", "h", "--key-file", key_file, "--timeout", "1")
    assert edgetrust(*way, "--count", "2").out == "hi  a=b  flag=\n\ufffd\n"
    assert json.loads(edgetrust(*way, "--json").out.splitlines()[0]) == {
        "body": "hi",
        "properties": {"a": "b", "flag": None},
    }
    few = edgetrust(*way, "--count", "3")
    assert (few.code, "2 of 3 messages arrived" in few.err) == (1, True)


def test_a_server_that_is_not_trusted_is_explained(edgetrust: Call, key_file: Path, session: type[Session]) -> None:
    session.problem = ServerRefusedError("the server h is not trusted", reason="chain-untrusted")
    shown = edgetrust("device", "send", "d1", "--hub", "h", "--key-file", key_file)
    assert shown.code == 1
    assert "--trust" in shown.err
    session.problem = ServerRefusedError("no certificate", reason="chain-malformed")
    assert "fix" not in edgetrust("device", "send", "d1", "--hub", "h", "--key-file", key_file).err


def test_the_hub_of_a_directory_says_why_it_refused(
    edgetrust: Call, hub: Any, key_file: Path, session: type[Session]
) -> None:
    session.problem = ConnackError(5)
    checks = [{"name": "enabled", "passed": False, "detail": "it is disabled"}]
    refusal = {"identity": "d1", "reason": "disabled", "checks": checks}
    hub.answer("GET", "/edgetrust/refusals", {"refusals": [{**refusal, "identity": "other"}, refusal]})
    way = ("device", "send", "d1", "--dir", hub.directory, "--key-file", key_file)
    assert edgetrust(*way).err.splitlines() == [
        "error: the hub refused d1: disabled: it is disabled",
        "fix: edgetrust device enable DEVICE",
    ]
    hub.answer("GET", "/edgetrust/refusals", {"refusals": []})
    assert "CONNACK 5" in edgetrust(*way).err
    assert "CONNACK 5" in edgetrust(*way, "--gateway", "gw.local").err


async def test_a_problem_inside_the_session_is_explained_too(key_file: Path, session: type[Session]) -> None:
    del session
    options = DeviceOptions("d1", hub="h", key_file=key_file)
    with pytest.raises(RefusedError):
        async with connected(options):
            raise ServerRefusedError("it has changed", reason="name-mismatch")


def test_pairs() -> None:
    assert traffic.pairs(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    assert traffic.pairs(None) == {}
    for text in ("a", "=b"):
        with pytest.raises(UsageError):
            traffic.pairs([text])
