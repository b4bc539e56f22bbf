"""The services of a fleet: who uses them, what is passed on, what is wrong with them, and the enrollment group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from edgetrust.cli.client import DpsClient, HubClient, HubError
from edgetrust.cli.fleet import bundle, files
from edgetrust.cli.fleet.enrolling import keep_group
from edgetrust.cli.fleet.material import Pair
from edgetrust.cli.fleet.plan import device_body, device_change
from edgetrust.cli.fleet.services import Services, services_of
from edgetrust.cli.fleet.topology import Topology, parse_topology
from edgetrust.edge.credentials import IssuedIdentity
from edgetrust.edge.edgeca import IssuedCa
from edgetrust.edge.settings import load_settings
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.softkeys import SoftKey
from support.pki import NOW, Pki

PKI = Pki()
ROOT = PKI.bundle.anchors[0]
ROOTS = TrustBundle((ROOT,), as_of=NOW)
TEXT = """\
name: plant
services:
  enroll: below
  est: {url: "https://est.plant:8085/.well-known/est"}
  dps: {endpoint: "https://dps.plant", id_scope: 0ne1}
gateways:
  - id: Upper
    hostname: upper.local
    gateways:
      - {id: Lower, hostname: lower.local, devices: [Temp]}
"""


def plant(text: str = TEXT) -> Topology:
    return parse_topology(text, Path("plant.yaml"))


def meaning(text: str = TEXT, folder: Path | None = None) -> Services:
    client = HubClient.__new__(HubClient)
    client.hub = SimpleNamespace(directory=folder, trust_file=None)  # type: ignore[assignment]
    found = services_of(plant(text), client, (ROOT,), ROOTS, NOW)
    assert found is not None
    return found


def refused(text: str, **other: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        meaning(text, **other)
    return caught.value


@pytest.mark.parametrize(
    ("enroll", "wish", "found"),
    [
        ("below", "", ["Lower"]),
        ("all", "", ["Upper", "Lower"]),
        ("named", "", []),
        ("named", "    auth: dps-est\n", ["Upper"]),
        ("all", "    auth: sas\n", ["Lower"]),
    ],
)
def test_who_enrols_is_said_for_all_or_by_each(enroll: str, wish: str, found: list[str]) -> None:
    text = TEXT.replace("enroll: below", f"enroll: {enroll}").replace(
        "    hostname: upper", f"{wish}    hostname: upper"
    )
    assert [member.id for member in plant(text).enrolling] == found


def test_both_services_are_passed_on_with_what_else_is_said() -> None:
    text = TEXT.replace("  enroll: below\n", "  enroll: below\n  https: [ocsp.plant]\n  mqtt: ['hub.plant:8884']\n")
    found = meaning(text)
    assert found.https == ("dps.plant:443", "est.plant:8085", "ocsp.plant:443")
    assert found.mqtt == ("dps.plant:8883", "hub.plant:8884")


@pytest.mark.parametrize(
    ("before", "after", "message", "reason"),
    [
        ("https://est.plant:8085/.well-known/est", "https://10.0.0.1/.well-known/est", "no address", ""),
        ("https://dps.plant", "https://localhost:8443", "not for localhost", ""),
        ("https://est.plant:8085/.well-known/est", "http://est.plant/.well-known/est", "no HTTPS address", ""),
        ("https://est.plant:8085/.well-known/est", "https://est.plant:99999/.well-known/est", "no HTTPS address", ""),
        ("https://est.plant:8085/.well-known/est", "https://est.plant/est", "has no path /.well-known/est", ""),
        ("https://est.plant:8085/.well-known/est", "https://dps.plant:1/.well-known/est", "ports 443 and 1", ""),
        ("https://dps.plant", "https://dps.plant/here", "has a path", ""),
        (", id_scope: 0ne1", "", "has no id_scope", ""),
        ("https://dps.plant", "https://upper.local", "upper.local is a name of the gateway Upper (line 7) too", ""),
        ("  enroll: below\n", "  enroll: below\n  https: ['*.plant']\n", "services.https: '*.plant' is no name", ""),
        ("  enroll: below\n", "  enroll: below\n  mqtt: ['a.plant:0']\n", "'a.plant:0' is not NAME or NAME:PORT", ""),
        ('  est: {url: "https://est.plant:8085/.well-known/est"}\n', "", "Lower is to be", "topology-no-services"),
        ("name: plant\n", "name: plant\ncertificates: {demo: pki}\n", "a demo PKI issues no bootstrap", ""),
    ],
)
def test_what_is_wrong_with_services_is_said_with_its_line(before: str, after: str, message: str, reason: str) -> None:
    assert before in TEXT
    problem = refused(TEXT.replace(before, after))
    assert message in problem.message
    assert problem.message.startswith("plant.yaml, line ")
    assert problem.reason == (reason or "topology-services")
    assert problem.fix or "id_scope" in message or "is not NAME" in message


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        (
            "name: p\ngateways:\n  - {id: G, hostname: g.local, auth: dps-est}\n",
            "topology-no-services",
            "line 3: G is to be provisioned, and nothing says by whom",
        ),
        (TEXT.replace("id: Lower", "id: Low'er"), "topology-wrong", "cannot be a registration id"),
        (TEXT.replace("8085/.well-known/est", "8085/.well-known/est', username: 'u").replace('"', "'"),
         "topology-wrong", "line 4: est takes both username and password_file, or neither"),
        (TEXT.replace("enroll: below", "enroll: bellow"), "config-wrong-value", "line 3: services.enroll"),
        (TEXT.replace("  dps:", "  dsp:"), "config-unknown-key", "line 5: unknown key"),
    ],
)  # fmt: skip
def test_what_can_be_seen_in_the_file_alone(text: str, reason: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plant(text)
    assert (caught.value.reason, message in caught.value.message) == (reason, True), caught.value.message


def test_what_the_file_does_not_say_edgetrust_up_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(
        '{"est": {"url": "https://hub.plant:9443/.well-known/est"}, '
        '"dps": {"hostname": "hub.plant", "https_port": 9443, "mqtt_port": 9883, "id_scope": "0ne7"}}'
    )
    found = meaning("name: p\nservices: {enroll: all}\ngateways:\n  - {id: G, hostname: g.local}\n", folder=tmp_path)
    assert (found.https, found.mqtt) == (("hub.plant:9443",), ("hub.plant:9883",))
    assert found.est is not None
    assert found.dps is not None
    assert found.dps.id_scope == "0ne7"


# What a gateway is given ----------------------------------------------------------------------------------------------


def files_of(name: str, text: str = TEXT) -> bundle.Files:
    member = next(one for one in plant(text).members if one.id == name)
    pair = None if "username" in text else Pair(PKI.device("Lower").chain, SoftKey.generate("Lower"))
    place = files.HubPlace("hub.plant", None, 8883, 443, ROOTS)
    held = bundle.Held(bootstrap=pair)
    return bundle.gateway_files(member, place, meaning(text), Path("/etc/fleet/Lower"), ROOTS, held, {})


def test_a_gateway_that_enrols_is_given_no_identity_and_a_configuration_that_is_read(tmp_path: Path) -> None:
    made = files_of("Lower")
    assert set(made) == {
        files.TRUST, files.EST_TRUST, files.BOOTSTRAP, files.BOOTSTRAP_KEY, files.CONFIG, files.README,
    }  # fmt: skip
    assert made[files.BOOTSTRAP_KEY].secret
    (tmp_path / "config.toml").write_bytes(made[files.CONFIG].data)
    settings = load_settings(tmp_path / "config.toml", keys_elsewhere=True)
    assert isinstance(settings.credential, IssuedIdentity)
    assert isinstance(settings.edge_ca, IssuedCa)
    assert settings.dps is not None
    assert (settings.dps.endpoint, settings.dps.registration) == ("https://dps.plant", "Lower")
    assert settings.upstream.name == "upper.local"
    assert dict(settings.forward.https) == {"est.plant": 8085, "dps.plant": 443}
    assert settings.warnings == ()
    assert b"https://est.plant:8085/.well-known/est" in made[files.README].data


def test_a_password_makes_the_configuration_a_secret(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("open sesame\n")
    login = f"est: {{username: plant, password_file: {tmp_path}/word, "
    made = files_of("Lower", TEXT.replace("est: {", login))
    assert made[files.CONFIG].secret
    assert b'password = "open sesame"' in made[files.CONFIG].data
    assert files.BOOTSTRAP not in made
    assert b"sesame" not in made[files.README].data


# The registry ---------------------------------------------------------------------------------------------------------


def change(**stored: Any) -> tuple[str, ...]:
    member = next(one for one in plant().members if one.id == "Lower")
    upper = {"id": "Upper", "capabilities": {"iotEdge": True}, "deviceScope": "ms-azure-iot-edge://Upper-1"}
    body = {"capabilities": {"iotEdge": True}, "parentScopes": ["ms-azure-iot-edge://Upper-1"], **stored}
    found = device_change(member, {("Upper", None): upper, ("Lower", None): body}, "plant", None)
    return () if found is None else found.facts


def test_what_provisioning_makes_of_a_gateway_is_no_difference() -> None:
    tags = {"fleet": "plant", "fleetAuth": "dps-est"}
    for kind in ("sas", "selfSigned"):
        assert change(tags=tags, authentication={"type": kind}) == ()
    assert change(tags={"fleet": "plant"}, authentication={"type": "sas"}) == ("authentication sas -> dps-est",)


def test_one_that_is_to_enrol_keeps_what_lets_it_in_until_it_has() -> None:
    member = next(one for one in plant().members if one.id == "Lower")
    prints = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "a" * 64}}
    body = device_body(member, {("Lower", None): {"authentication": prints}}, "plant", None, None)
    assert (body["authentication"], body["tags"]) == (prints, {"fleet": "plant", "fleetAuth": "dps-est"})
    made = device_body(member, {}, "plant", None, None)["authentication"]
    assert made == {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}}  # the hub makes them
    back = next(one for one in plant(TEXT.replace("enroll: below", "enroll: named")).members if one.id == "Lower")
    stored = {"tags": {"fleet": "plant", "fleetAuth": "dps-est", "site": 1}, "authentication": prints}
    assert device_body(back, {("Lower", None): stored}, "plant", "b" * 64, None)["tags"] == {
        "fleet": "plant",
        "site": 1,
    }


# The enrollment group -------------------------------------------------------------------------------------------------


class Service(DpsClient):
    """A provisioning service in memory."""

    def __init__(self) -> None:
        self.group: dict[str, Any] | None = None
        self.authorities: dict[str, Any] = {}

    async def get(self, *path: str, **_query: str) -> Any:
        if path[0] == "enrollmentGroups":
            if self.group is None:
                raise HubError("none", reason="enrollment-not-found", status=404)
            return self.group
        return {"value": [{"properties": one} for one in self.authorities.values()]}

    async def put(self, *path: str, body: Any, etag: str | None = None) -> Any:
        if path[0] != "enrollmentGroups":
            sha1 = ROOT.fingerprint(hashes.SHA1()).hex().upper()
            self.authorities[path[-1]] = {"thumbprint": sha1, "isVerified": body["properties"]["isVerified"]}
            return
        assert (etag is None) == (self.group is None)
        x509 = {"primary": {"info": {"sha256Thumbprint": ROOT.fingerprint(hashes.SHA256()).hex()}}}
        attestation = {"x509": {"signingCertificates": x509}}
        self.group = {**body, "attestation": attestation, "etag": '"1"'}


async def kept(service: Service, *, hub: str = "hub.plant", dry_run: bool = False) -> list[str]:
    return await keep_group(service, "plant", "line", hub, (ROOT,), dry_run=dry_run)


async def test_the_group_is_made_once_and_follows_what_it_is_to_be() -> None:
    service = Service()
    planned = await kept(service, dry_run=True)
    assert service.group is None
    assert not service.authorities
    assert await kept(service) == planned
    assert planned[-1] == "enrollment group line: create"
    assert planned[0].endswith(": add, verified")
    assert service.group is not None
    assert service.group["capabilities"] == {"iotEdge": True}
    assert await kept(service) == []
    assert await kept(service, hub="other.plant") == ["enrollment group line: update"]


async def test_a_group_that_somebody_else_has_made_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service()
    service.group = {"enrollmentGroupId": "line"}
    assert await kept(service) == []
    assert (service.group, service.authorities) == ({"enrollmentGroupId": "line"}, {})
    assert "left as it is" in capsys.readouterr().err
