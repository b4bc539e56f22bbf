"""systemd units: parsed here, and by systemd where it is."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from edgetrust.cli.edge import app
from edgetrust.edge.principals import ServiceUsers
from edgetrust.edge.units import unit_files

DIRECTIVES = {
    "Unit": {"Description", "Requires", "After", "Wants"},
    "Install": {"WantedBy"},
    "Socket": {
        *("ListenStream", "SocketUser", "SocketGroup", "SocketMode", "DirectoryMode", "RemoveOnStop"),
    },
    "Service": {
        *("Type", "NotifyAccess", "ExecStart", "LoadCredential", "User", "Group", "Restart", "RestartSec"),
        *("StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "TimeoutStartSec", "UMask", "NoNewPrivileges"),
        *("ProtectSystem", "ProtectHome", "ProtectProc", "ProtectClock", "ProtectHostname", "ProtectKernelLogs"),
        *("ProtectKernelModules", "ProtectKernelTunables", "ProtectControlGroups", "PrivateTmp", "PrivateDevices"),
        *("PrivateNetwork", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
        *("LockPersonality", "SystemCallArchitectures", "SystemCallFilter", "CapabilityBoundingSet"),
        "AmbientCapabilities",
    },
}  # of systemd.unit(5), systemd.socket(5), systemd.service(5), systemd.exec(5)
PROGRAM = "/opt/edgetrust/bin/edgetrust"
SERVICES = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "edged": "iotedge"}
FILES = unit_files(PROGRAM)


def parsed(name: str) -> dict[str, dict[str, str]]:
    reader = configparser.ConfigParser(interpolation=None, strict=True)
    reader.optionxform = str  # type: ignore[method-assign,assignment]
    reader.read_string(FILES[f"systemd/system/aziot-{name}"])
    return {section: dict(reader[section]) for section in reader.sections()}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_runs_as_its_own_user_and_starts_when_asked_or_at_boot(name: str) -> None:
    service = parsed(f"{name}.service")["Service"]
    assert service["User"] == service["Group"] == SERVICES[name]
    assert service["ExecStart"].startswith(f"{PROGRAM} edge {name} ")
    assert service["Type"] == "notify"
    assert (service["Restart"], service["RestartSec"]) == ("on-failure", "5s")
    assert service["StateDirectoryMode"] == "0700"
    assert service["NoNewPrivileges"] == service["ProtectKernelTunables"] == "yes"
    assert service["ProtectSystem"] == "strict"


@pytest.mark.parametrize("name", ["keyd", "certd", "identityd"])
def test_each_socket_is_for_the_service_and_its_group(name: str) -> None:
    socket = parsed(f"{name}.socket")["Socket"]
    assert socket["ListenStream"] == f"/run/aziot/{name}.sock"
    assert socket["SocketUser"] == socket["SocketGroup"] == SERVICES[name]
    assert socket["SocketMode"] == "0660"


def test_the_key_service_has_no_network() -> None:
    service = parsed("keyd.service")["Service"]
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"
    assert service["CapabilityBoundingSet"] == ""


def test_the_users_are_those_of_the_principals_and_in_the_groups_of_what_they_ask() -> None:
    lines = FILES["sysusers.d/edgetrust-edge.conf"].splitlines()
    assert {line.split()[1] for line in lines if line.startswith("u ")} == set(SERVICES.values())
    members = {tuple(line.split()[1:]) for line in lines if line.startswith("m ")}
    assert members == {
        ("aziotcs", "aziotks"),
        ("aziotid", "aziotks"),
        ("aziotid", "aziotcs"),
        ("iotedge", "aziotks"),
        ("iotedge", "aziotcs"),
        ("iotedge", "aziotid"),
    }
    users = ServiceUsers()
    assert {users.certd, users.identityd, users.edged} == set(SERVICES.values()) - {"aziotks"}


def test_every_directive_is_known_and_what_is_named_is_there() -> None:
    """Wherever there is no systemd: its words as its manuals have them, units that exist, options of the command."""
    edge: Any = typer.main.get_command(app)
    for name in FILES:
        if not name.startswith("systemd/"):
            continue
        unit = parsed(name.removeprefix("systemd/system/aziot-"))
        for section, values in unit.items():
            assert set(values) <= DIRECTIVES[section], (name, section)
        for named in (unit["Unit"].get("Requires", "") + " " + unit["Unit"].get("After", "")).split():
            assert named.endswith(".target") or f"systemd/system/{named}" in FILES, (name, named)
        if "Service" in unit:
            _, group, service, *options = unit["Service"]["ExecStart"].split()
            assert group == "edge"
            known = {option for one in edge.commands[service].params for option in one.opts}
            assert {option for option in options if option.startswith("-")} <= known


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """`systemd-analyze verify`, where there is one: everywhere else the tests above have to do."""
    program = tmp_path / "edgetrust"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in unit_files(str(program)).items():
        (tmp_path / Path(name).name).write_text(text)
    units = sorted(str(path) for path in (*tmp_path.glob("*.service"), *tmp_path.glob("*.socket")))
    assert len(units) == 7
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    about_ours = [line for line in (done.stdout + done.stderr).splitlines() if "aziot-" in line]
    assert about_ours == []
