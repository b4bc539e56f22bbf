"""What has to change at a hub: the topology against the registry."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgetrust.cli.fleet import bundle
from edgetrust.cli.fleet.bundle import Content
from edgetrust.cli.fleet.map import Node, arranged, drawn
from edgetrust.cli.fleet.plan import device_body, device_change, leavers, module_changes, strangers
from edgetrust.cli.fleet.topology import Member, Topology, parse_topology

TEXT = """\
name: plant
gateways:
  - {id: Upper, hostname: upper.local, devices: [Temp, {id: Meter, auth: sas, modules: [m]}]}
"""
SCOPE = "ms-azure-iot-edge://Upper-1"
NEW, OLD = "a" * 64, "b" * 64


def plant(text: str = TEXT) -> Topology:
    return parse_topology(text, Path("plant.yaml"))


def member(name: str) -> Member:
    return next(one for one in plant().members if one.id == name)


def stored(**other: Any) -> dict[str, Any]:
    prints = {"primaryThumbprint": NEW, "secondaryThumbprint": NEW}
    return {
        "id": "Temp",
        "status": "disabled",
        "capabilities": {"iotEdge": False},
        "authentication": {"type": "selfSigned", "x509Thumbprint": prints},
        "tags": {"fleet": "plant", "site": 7},
        "parentScopes": [SCOPE],
        "deviceScope": SCOPE,
        **other,
    }


def state(**other: Any) -> dict[Any, Any]:
    upper = {"id": "Upper", "capabilities": {"iotEdge": True}, "deviceScope": SCOPE, "tags": {"fleet": "plant"}}
    return {("Upper", None): upper, ("Temp", None): stored(**other)}


def facts(**other: Any) -> tuple[str, ...]:
    change = device_change(member("Temp"), state(**other), "plant", NEW)
    return () if change is None else change.facts


def test_what_is_as_it_is_to_be_needs_nothing() -> None:
    assert device_change(member("Temp"), state(), "plant", NEW) is None


def test_each_difference_is_named() -> None:
    assert facts(tags={}) == ("tag fleet = plant",)
    assert facts(authentication={"type": "sas"}) == ("authentication sas -> thumbprint",)
    prints = {"primaryThumbprint": OLD, "secondaryThumbprint": OLD}
    assert facts(authentication={"type": "selfSigned", "x509Thumbprint": prints}) == ("new certificate",)
    assert facts(parentScopes=[]) == ("parent the hub -> Upper",)
    assert facts(parentScopes=["ms-azure-iot-edge://Upper-0"]) == ("parent Upper, which was made anew",)
    assert facts(capabilities={"iotEdge": True}) == ("is no gateway any more",)


def test_a_new_thumbprint_keeps_the_one_in_use_in_the_second_slot() -> None:
    prints = {"primaryThumbprint": OLD, "secondaryThumbprint": OLD}
    known = state(authentication={"type": "selfSigned", "x509Thumbprint": prints})
    body = device_body(member("Temp"), known, "plant", NEW, SCOPE)
    assert body["authentication"]["x509Thumbprint"] == {"primaryThumbprint": NEW, "secondaryThumbprint": OLD}


def test_what_is_the_operators_stays() -> None:
    body = device_body(member("Temp"), state(), "plant", NEW, SCOPE)
    assert body["status"] == "disabled"
    assert body["tags"] == {"fleet": "plant", "site": 7}
    assert (body["deviceScope"], body["parentScopes"]) == (SCOPE, [SCOPE])


def test_keys_are_kept() -> None:
    keys = {"primaryKey": "YQ==", "secondaryKey": "Yg=="}
    known = {("Meter", None): stored(id="Meter", authentication={"type": "sas", "symmetricKey": keys})}
    assert device_body(member("Meter"), known, "plant", None, SCOPE)["authentication"]["symmetricKey"] == keys


def test_modules_are_made_and_strangers_found() -> None:
    assert [change.name for change in module_changes(member("Meter"), state(), "plant")] == ["Meter/m"]
    assert [one.id for one in strangers(plant(), state(tags={"fleet": "other"}))] == ["Temp"]


def test_who_left_is_who_bears_the_mark() -> None:
    known = state()
    known["Gone", None] = {"id": "Gone", "tags": {"fleet": "plant"}}
    known["Gone", "m"] = {"id": "Gone", "moduleId": "m", "tags": {"fleet": "plant"}}
    known["Temp", "old"] = {"id": "Temp", "moduleId": "old", "tags": {"fleet": "plant"}}
    known["Temp", "foreign"] = {"id": "Temp", "moduleId": "foreign", "tags": {}}
    known["Other", None] = {"id": "Other", "tags": {"fleet": "other"}}
    assert sorted(change.name for change in leavers(plant(), known)) == ["Gone", "Temp/old"]


def test_a_bundle_is_written_once_and_closed(tmp_path: Path) -> None:
    files = {"README.txt": Content(b"read"), "identity.key.pem": Content(b"secret", secret=True)}
    assert bundle.write(tmp_path / "Temp", files)
    assert not bundle.write(tmp_path / "Temp", files)
    assert (tmp_path / "Temp/identity.key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "Temp.tar.gz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "Temp.tar.gz").read_bytes())) as tar:
        assert {one.name: one.mode for one in tar.getmembers()} == {
            "Temp": 0o700, "Temp/README.txt": 0o644, "Temp/identity.key.pem": 0o600,
        }  # fmt: skip
    assert bundle.write(tmp_path / "Temp", {"README.txt": Content(b"read")})
    assert not (tmp_path / "Temp/identity.key.pem").exists()
    assert bundle.remove(tmp_path / "Temp")
    assert list(tmp_path.iterdir()) == []


def test_no_identifier_leads_out_of_the_folder() -> None:
    assert [bundle.folder_name(name) for name in ("..", ".", "a:b*", "Temp-1")] == ["%2E.", "%2E", "a%3Ab%2A", "Temp-1"]


def test_pictures_name_everybody_and_let_nobody_draw() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    nodes = [
        Node("Upper", True, "enabled", "thumbprint", True, "", "plant", until=datetime(2026, 1, 9, tzinfo=UTC)),
        Node('<b>"x"', False, "disabled", "sas", False, "Upper", "plant", until=datetime(2025, 12, 31, tzinfo=UTC)),
        Node("Lost", False, "enabled", "sas", False, "NotHere", ""),
    ]
    roots = arranged(nodes)
    assert [node.device for node in roots] == ["Upper", "Lost"]
    shown = drawn("hub", roots, "tree", now)
    assert "Upper  gateway, thumbprint, connected, certificate: 8 days" in shown
    assert "device, sas, disabled, behind its gateway, certificate ended 1 day ago" in shown
    assert "#60;b#62;#34;x#34;" in drawn("hub", roots, "mermaid", now)
    svg = ElementTree.fromstring(drawn("hub", roots, "svg", now))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"hub", "Upper", '<b>"x"', "Lost", "certificate: 8 days"} <= set(texts)
