"""Five gateways above each other, each in a network where only its neighbours are reached: hub, gateways and devices as
processes, links that are cut and restored. Without the right to make networks the same runs on loopback, and says so.

What one gateway must not do is tried by somebody who has G3's key and its place in the network, or one leaf's.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.edge_world import wait_until, write_holder
from support.gateway_row import DEPTH, PLACE_OF_DEVICES, WAIT, Field, sends
from support.pki import Pki, root, self_signed
from support.raw_mqtt import PUBACK, Raw, publish
from support.story import contents

# In the summary of the run, where somebody reads it.
pytestmark = pytest.mark.filterwarnings("default:on loopback:UserWarning")
SCOPE = "devicesAndModulesInTargetDeviceScope"
API = "?api-version=2020-06-30-preview"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    made = Field(tmp_path_factory.mktemp("field"))
    try:
        made.begin()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def beside(field: Field) -> str:
    """A gateway beside G3, with a device; its name."""
    made = field.create("Beside", capabilities={"iotEdge": True}, parentScopes=[field.scope("G2")])
    field.create("BesideLeaf", parentScopes=[made["deviceScope"]])
    return "Beside"


def test_devices_of_every_level_are_devices_of_the_hub(field: Field) -> None:
    """Row 54, and the depth that a hub allows: as the READMEs say at the lowest gateway, by key and by certificate."""
    for device in (f"Sensor{DEPTH}", f"Meter{DEPTH}"):
        done = field.send(device, f"first of {device}")
        assert done.returncode == 0, done.stderr
        field.arrive(device, [f"first of {device}"])
    for device in ("Sensor1", "Meter2"):
        field.says(device, f"first of {device}")
        field.arrive(device, [f"first of {device}"])
    if field.row.isolated:  # nobody reaches further than his neighbour
        probe = f"import socket; socket.create_connection(({field.hub_name!r}, {field.hub_ports[0]}), 2)"
        assert field.run(PLACE_OF_DEVICES, sys.executable, "-c", probe).returncode != 0
        assert field.run(1, sys.executable, "-c", probe).returncode == 0


def test_what_is_sent_while_a_link_is_cut_arrives_in_order_and_none_is_missing(field: Field) -> None:
    """Rows 76, 91 to 94: for the link to the hub and for one between gateways; a repetition skips nothing."""
    for link in (0, DEPTH - 1):
        field.says(f"Meter{DEPTH}", f"before {link}")
        field.cut(link)
        try:
            wanted = [f"{number} while {link}" for number in range(20)]
            for part in (wanted[:10], wanted[10:]):  # each a new connection, decided on by the copy
                field.says(f"Meter{DEPTH}", *part)
        finally:
            field.row.restore(link)
        field.arrive(f"Meter{DEPTH}", [f"before {link}", *wanted])


def test_a_gateway_that_was_away_applies_what_was_revoked_before_it_forwards(field: Field) -> None:
    """Rows 76, 93, 94. The lowest is cut off and started anew, with a new server certificate and its copy. Meanwhile a
    device with an open connection is disabled. First of all this is applied; what is kept of the device goes nowhere.
    """
    link, device, other = DEPTH - 1, f"Sensor{DEPTH}", f"Meter{DEPTH}"
    lowest = field.processes[DEPTH]
    before = field.openssl(DEPTH, "-showcerts").split("-----END")[0]
    field.cut(link)
    try:
        lowest.stop(signal.SIGKILL)
        began = len(lowest.text().splitlines())
        lowest.start()
        assert field.openssl(DEPTH, "-showcerts").split("-----END")[0] != before  # issued without any network
        with pytest.raises(ConnectionError, match="CONNACK 3"):
            field.says("Unheard", "x", place=DEPTH, password=field.token("Unheard", "eHg="))
        assert ("Unheard", "registry-unavailable") in field.refused(DEPTH)
        secret = (field.folder / f"fleet/{device}/symmetric.key").read_bytes().strip()
        stored = field.folder / f"roots/G{DEPTH}/var/lib/edgetrust"
        assert all(secret not in content for content in contents(stored))

        async def stays(raw: Raw) -> None:
            await sends(raw, device, "kept of the disabled")
            await asyncio.to_thread(field.says, other, "kept of the other")
            await asyncio.to_thread(field.enable, device, False)
            await asyncio.to_thread(field.row.restore, link)
            with pytest.raises(ConnectionError, match="gone"):
                await raw.read()

        field.as_client(DEPTH, device, stays, **field.credentials(device))
    finally:
        field.row.restore(link)
    with pytest.raises(ConnectionError, match="CONNACK 5"):
        field.says(device, "too late")
    field.says(other, "after it")
    field.arrive(other, ["kept of the other", "after it"])
    assert "kept of the disabled" not in field.bodies(device)
    log = field.log(DEPTH, began)
    told = [(one["event"], one.get("identity") or one.get("device"), one.get("reason")) for one in log]
    applied = told.index(("connection.refused", device, "disabled"))
    if field.row.isolated:  # else the gateway above stood still too, and has yet to hear of it
        forwards = told.index(("upstream.connected", None, None))
        assert applied < forwards < told.index(("upstream.dropped", device, "disabled"))
    field.enable(device, True)
    wait_until(lambda: accepted(lambda: field.says(device, "again")), WAIT)
    field.arrive(device, ["again"])
    assert "kept of the disabled" not in field.bodies(device)


def test_the_upper_gateway_was_away(field: Field) -> None:
    """The same where the gateway that was away is not the device's own: what four have passed on stops there."""
    device, other = f"Sensor{DEPTH}", f"Meter{DEPTH}"
    upper, stored = field.processes[1], field.folder / "roots/G1/var/lib/edgetrust"
    field.cut(0)
    try:
        upper.stop(signal.SIGKILL)
        upper.start()
        field.says(device, "kept above")
        field.says(other, "kept beside it")
        wait_until(lambda: any(b"kept beside it" in one.read_bytes() for one in stored.glob("*.sqlite*")), WAIT)
        if not field.row.isolated:  # the hub stands still, and cannot be told anything
            upper.stop(signal.SIGKILL)
            field.row.restore(0)
        field.enable(device, False)
    finally:
        field.row.restore(0)
    if upper.running is None:
        upper.start()
    field.arrive(other, ["kept beside it"])
    assert "kept above" not in field.bodies(device)
    assert any(one["event"] == "upstream.dropped" and one["reason"] == "disabled" for one in field.log(1))
    wait_until(lambda: not accepted(lambda: field.says(device, "too late")), WAIT)  # and it came down to the lowest
    field.enable(device, True)
    wait_until(lambda: accepted(lambda: field.says(device, "once more")), WAIT)
    field.arrive(device, ["once more"])
    assert "kept above" not in field.bodies(device)


def accepted(work: Callable[[], None]) -> bool:
    try:
        work()
    except ConnectionError:
        return False
    return True


# An attacker with the key of G3, in its place in the network ---------------------------------------------------------


def chain(*elements: str) -> str:
    return "&auth-chain=" + "%3B".join(elements)


@pytest.mark.parametrize(
    ("claim", "said", "reason"),
    [
        ("Sensor1", ("Sensor1", "G3"), "not-a-child"),
        ("Sensor2", ("Sensor2", "G3"), "not-a-child"),
        ("BesideLeaf", ("BesideLeaf", "G3"), "not-a-child"),
        ("BesideLeaf", ("BesideLeaf", "Beside", "G3"), "not-a-child"),
        ("BesideLeaf", ("Sensor3", "G3"), "auth-chain-mismatch"),
        ("Beside", ("Beside", "G3"), "not-a-child"),
        ("Beside/$edgeHub", ("Beside/$edgeHub", "Beside", "G3"), "not-a-child"),
        ("Sensor2/probe", ("Sensor2/probe", "Sensor2", "G3"), "not-a-child"),
        ("G2", ("G2", "G3"), "not-a-child"),
        ("Sensor5", ("Sensor5", "G3"), "not-a-child"),  # G4 and G5 are left out
        ("Sensor5", ("Sensor5", "G5", "G4", "Beside", "G3"), "not-a-child"),
        ("Sensor3", ("Sensor3", "G2"), "sas-other-resource"),  # with its own token, as if it were G2
        ("Sensor3", ("Sensor3", "Sensor3"), "sas-other-resource"),
        ("Sensor5", ("Sensor5", "G9", "G8", "G7", "G6", "G5", "G3"), "user-name-malformed"),
    ],
)
def test_a_forged_chain_is_refused_with_its_reason(
    field: Field, beside: str, claim: str, said: tuple[str, ...], reason: str
) -> None:
    assert beside
    token = field.token("G3/$edgeHub", field.key("G3/$edgeHub"))
    already = len(field.refused(2))
    with pytest.raises(ConnectionError, match=r"CONNACK [45]"):
        field.as_client(2, claim, nothing, password=token, said=chain(*said))
    (refused,) = field.refused(2)[already:]
    assert refused[1] == reason
    assert refused[0] == claim or reason != "not-a-child"


async def nothing(raw: Raw) -> None:
    del raw


def test_nobody_is_disturbed_while_a_gateway_forges(field: Field, beside: str) -> None:
    """On its own connection and by HTTPS; a device of the same gateway stays connected, and what it sends arrives."""
    assert beside
    key = field.key("G3/$edgeHub")
    token = field.token("G3/$edgeHub", key)

    async def forges(raw: Raw) -> None:
        raw.writer.write(publish("devices/BesideLeaf/messages/events/", b"forged", 1))
        with pytest.raises(ConnectionError, match="gone"):
            await raw.read()

    async def meanwhile(raw: Raw) -> None:
        await asyncio.to_thread(
            field.as_client, 2, "G3/$edgeHub", forges, password=token
        )  # its own connection gives way: it is its own
        for path, method, body, status in (
            (f"/devices/G3/modules/%24edgeHub/{SCOPE}", "POST", {"authChain": "Beside;G3"}, 403),
            (f"/devices/G3/modules/%24edgeHub/{SCOPE}", "POST", {"authChain": "G2"}, 403),
            ("/devices/G3/modules/%24edgeHub/getDeviceAndModuleOnBehalfOf", "POST",
             {"authChain": "G3", "targetDeviceId": "BesideLeaf"}, 403),
            ("/devices/G3/modules/%24edgeHub/putModuleOnBehalfOf", "PUT",
             {"authChain": "Beside;G3", "module": {"deviceId": "Beside", "moduleId": "m"}}, 403),
            ("/devices/G3/modules/%24edgeHub/putModuleOnBehalfOf", "PUT",
             {"authChain": "G3", "module": {"deviceId": "Beside", "moduleId": "m"}}, 400),
            ("/devices/G2/modules/m", "PUT", {"deviceId": "G2", "moduleId": "m"}, 401),
            (f"/devices/G2/modules/%24edgeHub/{SCOPE}", "POST", {"authChain": "G2"}, 401),
            ("/devices/Beside/modules", "GET", None, 401),
            ("/twins/Meter2/methods", "POST", {"methodName": "m"}, 400),
        ):  # fmt: skip
            answer = await asyncio.to_thread(field.https, 2, method, path + API, token, body)
            assert answer[0] == status, (path, answer)
            assert "symmetricKey" not in json.dumps(answer[1])
        await sends(raw, "Meter2", "undisturbed")

    already = len(field.refused(2))
    field.as_client(2, "Meter2", meanwhile, **field.credentials("Meter2"))
    refused = field.refused(2)[already:]
    assert ("G3/$edgeHub", "not-authorized") in refused
    assert refused.count(("G3/$edgeHub", "not-a-child")) == 2
    assert ("G3/$edgeHub", "auth-chain-mismatch") in refused
    assert {one[0] for one in refused if one[1] == "sas-other-resource"} == {"G2/$edgeHub", "Beside"}
    assert ("G2", "wrong-kind-of-credential") in refused
    field.arrive("Meter2", ["undisturbed"])
    assert field.bodies("BesideLeaf") == []
    field.says("Sensor3", "its own devices are served")  # the real G3 has taken its place again
    field.arrive("Sensor3", ["its own devices are served"])


def test_a_leaf_cannot_call_itself_a_gateway(field: Field) -> None:
    """Neither by a module of that name, nor by a chain that ends with itself."""
    own = field.token("Sensor2", (field.folder / "fleet/Sensor2/symmetric.key").read_text().strip())
    body = {"deviceId": "Sensor2", "moduleId": "$edgeHub"}
    path = "/devices/Sensor2/modules/%24edgeHub"
    assert field.https(2, "PUT", path + API, own, body)[0] == 400
    status, said = field.https(2, "POST", f"{path}/{SCOPE}{API}", own, {"authChain": "Sensor2"})
    assert (status, "devices" in said) == (401, False)
    for claim in ("Meter2", "Sensor2/probe"):
        with pytest.raises(ConnectionError, match="CONNACK 5"):
            field.as_client(2, claim, nothing, password=own, said=chain(claim, "Sensor2"))

    async def as_its_sibling(raw: Raw) -> None:
        raw.writer.write(publish("devices/Meter2/messages/events/", b"forged", 1))
        with pytest.raises(ConnectionError, match="gone"):
            await raw.read()

    field.as_client(2, "Sensor2", as_its_sibling, password=own)
    assert ("Sensor2", "not-authorized") in field.refused(2)
    assert "forged" not in field.bodies("Meter2")


def test_a_gateway_sends_nothing_for_a_disabled_device(field: Field) -> None:
    """G3 was taken over and goes on: what it sends for its device is not taken, and put on record; the rest is."""
    token = field.token("G3/$edgeHub", field.key("G3/$edgeHub"))
    field.enable("Sensor3", False)
    wait_until(lambda: not accepted(lambda: field.says("Sensor3", "x")), WAIT)

    async def goes_on(raw: Raw) -> None:
        for number, sender in enumerate(("Sensor3", "Meter3", "Sensor3/modules/probe"), 1):
            raw.writer.write(publish(f"devices/{sender}/messages/events/", b"goes on", number))
            assert await raw.read() == (PUBACK, number.to_bytes(2, "big"))

    field.as_client(2, "G3/$edgeHub", goes_on, password=token)
    assert ("Sensor3", "disabled") in field.refused(2)
    field.arrive("Meter3", ["goes on"])
    assert "goes on" not in field.bodies("Sensor3")
    field.enable("Sensor3", True)
    wait_until(lambda: accepted(lambda: field.says("Sensor3", "back")), WAIT)


def test_a_sixth_gateway_and_one_of_another_place_are_refused(field: Field) -> None:
    """With a reason each: too deep, and not below this gateway, whatever it presents and however it asks."""
    text = (field.folder / "field.yaml").read_text()
    deep = json.loads(text)
    lowest = deep
    while lowest.get("gateways"):
        lowest = lowest["gateways"][0]
    lowest["gateways"] = [{"id": "G6", "hostname": "g6.example"}]
    (field.folder / "deep.yaml").write_text(json.dumps(deep))
    said = field.edgetrust(0, "fleet", "apply", str(field.folder / "deep.yaml"), "--dry-run", ok=False)
    assert "G6 would be gateway 6" in said
    with pytest.raises(Exception, match="more than 5 gateways in a row"):
        field.create("G6", capabilities={"iotEdge": True}, parentScopes=[field.scope(f"G{DEPTH}")])
    field.create("Astray", capabilities={"iotEdge": True})  # a gateway whose place is elsewhere
    own, hub = (field.token(who, field.key(who)) for who in ("Astray", "Astray/$edgeHub"))
    already = len(field.refused(DEPTH))
    assert field.https(DEPTH, "GET", "/devices/Astray/modules" + API, own)[0] == 401
    path = f"/devices/Astray/modules/%24edgeHub/{SCOPE}" + API
    assert field.https(DEPTH, "POST", path, hub, {"authChain": f"Sensor{DEPTH};Astray"})[0] == 401
    with pytest.raises(ConnectionError, match="CONNACK 5"):
        field.as_client(DEPTH, "Astray/$edgeHub", nothing, password=hub)
    assert set(field.refused(DEPTH)[already:]) == {("Astray", "not-a-child"), ("Astray/$edgeHub", "not-a-child")}


# Certificates -------------------------------------------------------------------------------------------------------


def test_one_certificate_for_its_name_whatever_is_asked_for(field: Field) -> None:
    """Rows 60 to 62, 64, 66 to 69, 90: the chain, the address that it is for, and that a client's is asked for."""
    at = field.row.address(2)
    shown = field.openssl(2, "-verify_ip", at, "-showcerts")
    assert "Verify return code: 0 (ok)" in shown
    assert "aziot-edge CA G2" in shown
    leaf = shown[shown.index("-----BEGIN") : shown.index("-----END")] + "-----END CERTIFICATE-----\n"
    facts = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-ext", "basicConstraints,subjectAltName"],
        input=leaf, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert f"CN = {at}" in facts
    assert f"IP Address:{at}" in facts
    assert "CA:TRUE" not in facts
    assert "mismatch" in field.openssl(2, "-verify_ip", "192.0.2.1").lower()
    assert "mismatch" in field.openssl(2, "-verify_hostname", "other.example").lower()
    assert "Verify return code: 0 (ok)" in field.openssl(2, "-verify_hostname", "edgeHub")  # the module's name
    assert "mismatch" in field.openssl(2, "-verify_hostname", at).lower()  # an address is no name, whatever the CN is
    first, second = field.openssl(2, "-servername", "x.example"), field.openssl(2, "-servername", "y.example")
    assert [text.split("-----BEGIN")[1].split("-----END")[0] for text in (first, second)].count(
        first.split("-----BEGIN")[1].split("-----END")[0]
    ) == 2
    assert "client certificate" in shown.lower()
    certificate, key = field.pair("Meter3")
    assert "Verify return code: 0 (ok)" in field.openssl(
        2, "-verify_ip", at, "-cert", str(certificate), "-key", str(key)
    )


def test_another_name_comes_from_the_configuration(field: Field) -> None:
    """Rows 63, 65, 66, 68: told to read its configuration again, the lowest has a certificate for the new name, and a
    device that dials it as before says nothing. With the name of before everything is as before.
    """
    lowest = field.processes[DEPTH].running
    assert lowest is not None
    config = field.folder / f"fleet/G{DEPTH}/config.toml"
    text, at = config.read_text(), field.row.address(DEPTH)
    assert f'hostname = "{at}"' in text
    try:
        config.write_text(text.replace(f'hostname = "{at}"', 'hostname = "renamed.example"', 1))
        lowest.send_signal(signal.SIGHUP)
        wait_until(lambda: "CN = renamed.example" in field.openssl(DEPTH, "-verify_hostname", "renamed.example"), WAIT)
        assert "Verify return code: 0 (ok)" in field.openssl(DEPTH, "-verify_hostname", "renamed.example")
        sessions = len(field.refused(DEPTH))
        with pytest.raises(Exception, match=r"(?i)ip address mismatch"):
            field.says(f"Meter{DEPTH}", "never said")
        assert len(field.refused(DEPTH)) == sessions
    finally:
        config.write_text(text)
        lowest.send_signal(signal.SIGHUP)
    wait_until(lambda: f"CN = {at}" in field.openssl(DEPTH, "-verify_ip", at), WAIT)
    field.says(f"Meter{DEPTH}", "said")
    field.arrive(f"Meter{DEPTH}", ["said"])


def test_one_door_for_what_comes_in(field: Field) -> None:
    """Row 80: of a gateway's machine nothing listens to others but its two ports."""
    if not field.row.isolated:
        return  # all of them share one network
    listening = [line.split()[3] for line in field.run(3, "ss", "-Hltn").stdout.splitlines()]
    outside = {address for address in listening if not address.startswith(("127.", "[::1]"))}
    assert outside == {f"{field.row.address(3)}:{port}" for port in field.ports[2]}


def test_who_a_device_is_five_gateways_down(field: Field, tmp_path: Path) -> None:
    """Rows 91, 92, 96, 97: somebody new is asked about, up to the hub; thumbprint, name and key all count."""
    now = datetime.now(UTC)
    scope = field.scope(f"G{DEPTH}")
    new, outdated = self_signed("New", now=now), self_signed("Outdated", now=now, end=timedelta(seconds=-5))
    for name, holder in (("New", new), ("Outdated", outdated)):
        slots = {"primaryThumbprint": holder.chain.thumbprint().hex(), "secondaryThumbprint": None}
        field.create(name, parentScopes=[scope], authentication={"type": "selfSigned", "x509Thumbprint": slots})
    field.says("New", "accepted at once", place=DEPTH, pair=write_holder(tmp_path, "new", new))
    field.arrive("New", ["accepted at once"])
    wrong = self_signed("New", now=now, key_kind="rsa-2048")
    for who, pair, reason in (
        ("New", write_holder(tmp_path, "wrong", wrong), "thumbprint-unknown-subject-known"),
        ("New", field.pair(f"Meter{DEPTH}"), "thumbprint-mismatch"),  # a good one, of somebody else
        (f"Meter{DEPTH}", write_holder(tmp_path, "new", new), "thumbprint-mismatch"),
        ("Outdated", write_holder(tmp_path, "outdated", outdated), "certificate-expired"),
    ):
        with pytest.raises(ConnectionError, match="CONNACK 5"):
            field.says(who, "x", place=DEPTH, pair=pair)
        assert field.refused(DEPTH)[-1] == (who, reason)
    certificate = field.pair(f"Meter{DEPTH}")[0]
    with pytest.raises(Exception, match=r"(?i)key values mismatch"):
        field.says(f"Meter{DEPTH}", "x", pair=(certificate, write_holder(tmp_path, "new", new)[1]))


def test_devices_below_a_ca_that_only_the_hub_was_told(field: Field, tmp_path: Path) -> None:
    """Row 95, through all gateways: each asks the one above which CAs the hub has verified."""
    now = datetime.now(UTC)
    pki = Pki(now=now, root_name="fleet root", intermediates=1)
    ca = {"certificate": pki.root.chain.pem(), "isVerified": True}
    field.hub(lambda hub: hub.put("certificates", "fleet", body={"properties": ca}))
    field.create("ByCa", parentScopes=[field.scope(f"G{DEPTH}")], authentication={"type": "certificateAuthority"})
    good = write_holder(tmp_path, "good", pki.device("ByCa"))
    # That there is a new CA comes down level by level: until then its devices are refused.
    wait_until(lambda: accepted(lambda: field.says("ByCa", "by authority", place=DEPTH, pair=good)), WAIT)
    field.arrive("ByCa", ["by authority"])
    other = root("fleet root", key_label="another", now=now)
    for name, holder, reason in (
        ("other", other.issue("ByCa", now=now), "chain-"),
        ("case", pki.device("byca"), "cn-mismatch"),
        ("ca", pki.device("ByCa", ca=True, usage=("digital_signature", "key_cert_sign")), "end-entity-is-a-ca"),
    ):
        with pytest.raises(ConnectionError, match="CONNACK 5"):
            field.says("ByCa", "x", place=DEPTH, pair=write_holder(tmp_path, name, holder))
        who, why = field.refused(DEPTH)[-1]
        assert (who, why.startswith(reason)) == ("ByCa", True), why
    field.enable("ByCa", False)
    wait_until(lambda: not accepted(lambda: field.says("ByCa", "x", place=DEPTH, pair=good)), WAIT)
    assert field.refused(DEPTH)[-1] == ("ByCa", "disabled")
