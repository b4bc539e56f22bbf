"""What the README of a bundle says: commands that work as they stand there, one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetrust.cli.fleet.services import Services
from edgetrust.cli.fleet.topology import DPS_EST, Member


def gateway_readme(member: Member, hub: str, services: Services | None, installed: Path) -> str:
    """The README of a gateway."""
    gateway = member.gateway
    assert gateway is not None
    root = shlex.quote(gateway.root)
    above = member.parent.gateway if member.parent is not None else None
    upper = f"the gateway above it, {above.hostname}" if above is not None else f"the hub, {hub}"
    return f"""\
{member.id}: an edge gateway. Devices reach it as {", ".join((gateway.hostname, *gateway.names))}.

Keep this folder and its archive closed to others: they hold private keys.

{_unpack(installed)}
2. Put the configuration in its place. Every file that it names is looked at first:

    edgetrust edge apply -c {_quoted(installed / "config.toml")} --root {root}

3. Serve. It must reach {upper}; edgetrust has to be installed{_first_start(member, services)}:

    edgetrust edge serve --root {root}

4. In another terminal, see that it is connected and that nothing is wrong:

    edgetrust edge status --root {root}
    edgetrust edge check --root {root}
{_module_words(member, installed)}"""


def _first_start(member: Member, services: Services | None) -> str:
    """What happens when a gateway that is provisioned is started."""
    if member.auth != DPS_EST or services is None or services.est is None or services.dps is None:
        return ""
    through = "" if member.parent is None else ", all through the gateway above it,\n   for which it waits"
    return (
        f".\n   It gets its certificates from {services.est.url} and is told its hub\n"
        f"   by {services.dps.endpoint}{through}"
    )


def device_readme(member: Member, place: Mapping[str, Any], installed: Path) -> str:
    """The README of a device. `place` is its connection.json."""
    where = f"through the gateway {place['gateway']}" if "gateway" in place else "straight"
    send = ["edgetrust", "device", "send", member.id, "--hub", place["hub"]]
    mosquitto = ["mosquitto_pub", "-V", "mqttv311", "-q", "1", "-h", place["host"], "-p", str(place["mqttPort"])]
    if "gateway" in place:
        send += ["--gateway", f"{place['host']}:{place['mqttPort']}"]
    else:
        send += ["--port", str(place["mqttPort"])]
    if place.get("address"):
        send += ["--address", place["address"]]
    if "trust" in place:
        send += ["--trust", place["trust"]]
        mosquitto += ["--cafile", place["trust"]]
    else:
        mosquitto += ["--capath", "/etc/ssl/certs"]
    certificate = "certificate" in place
    if certificate:
        send += ["--cert", place["certificate"], "--cert-key", place["key"]]
        mosquitto += ["--cert", place["certificate"], "--key", place["key"]]
    else:
        send += ["--key-file", str(installed / "symmetric.key")]
    send += ["--message", '{"temperature": 21.5}']
    mosquitto += ["-i", member.id, "-u", f"{place['hub']}/{member.id}/?api-version=2021-04-12"]
    mosquitto += ["-t", f"devices/{member.id}/messages/events/", "-m", '{"temperature": 21.5}']
    text = f"""\
{member.id}: a device of the hub {place["hub"]}, which it reaches {where}.

Keep this folder and its archive closed to others: they hold secrets. What a program needs to know is in
connection.json{", the connection string for an SDK in connection-string" if not certificate else ""}.

{_unpack(installed)}
2. Send a message:

    {shlex.join(send)}
"""
    if certificate:
        text += f"""
3. The same with any MQTT client, for example:

    {shlex.join(mosquitto)}
"""
    return text + _module_words(member, installed)


def _unpack(installed: Path) -> str:
    parent = _quoted(installed.parent)
    return f"""\
1. Bring {installed.name}.tar.gz to the machine and unpack it there, in the folder that it is in:

    mkdir -p {parent}
    tar -xzf {_quoted(f"{installed.name}.tar.gz")} -C {parent}
"""


def _module_words(member: Member, installed: Path) -> str:
    if not member.table.modules:
        return ""
    return f"\nThe connection strings of its modules are in {installed}/modules.\n"


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
