"""`edgetrust fleet map`: who is below whom at a hub, who is connected, and when certificates end.

A gateway is connected when its module `$edgeHub` is; who is behind a gateway shows itself at the hub when it sends, or
has a connection in its own name. The hub knows thumbprints, not certificates: when one ends is known from the bundles
of `fleet apply`, and from the store of a certificate authority; of others the map says nothing.
"""

from __future__ import annotations

import asyncio
import json as encoding
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient
from edgetrust.cli.fleet.plan import TAG, auth_tag
from edgetrust.cli.output import Json, duration, iso, print_block, print_json, printable, say
from edgetrust.cli.registrations import auth_word, parent_of
from edgetrust.clock import SystemClock
from edgetrust.errors import Error
from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.softkeys import write_public

_GATEWAYS = "SELECT * FROM devices.modules WHERE moduleId = '$edgeHub'"
Format = Literal["tree", "svg", "mermaid"]


@dataclass
class Node:
    """One device. `seen`: when it last did something at the hub; `until`: when its certificate ends, where that is
    known here; `enrols`: how it gets its certificates and its hub, where it does not bring them along.
    """

    device: str
    edge: bool
    status: str
    auth: str
    connected: bool
    parent: str
    fleet: str
    seen: datetime | None = None
    until: datetime | None = None
    enrols: str = ""
    children: list[Node] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "edge": self.edge,
            "status": self.status,
            "authentication": self.auth,
            "enrols": self.enrols or None,
            "connected": self.connected,
            "fleet": self.fleet or None,
            "lastSeen": None if self.seen is None else iso(self.seen),
            "certificateUntil": None if self.until is None else iso(self.until),
            "children": [child.as_json() for child in self.children],
        }


@at_hub
async def map_(
    client: HubClient,
    *,
    form: Annotated[Format, typer.Option("--format", help="tree: the terminal.")] = "tree",
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it. Default: stdout.")
    ] = None,
    fleet: Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="Only who belongs to it.")] = None,
    bundles: Annotated[
        Path, typer.Option("--bundles", metavar="D", help="The bundles of fleet apply, for the ends of certificates.")
    ] = Path("fleet"),
    config: Annotated[
        Path | None,
        typer.Option("--ca-config", metavar="FILE", help="The ca.toml of the issuer, for the same. Default: --dir's."),
    ] = None,
    json: Json = False,
) -> None:
    if config is None and client.hub.directory is not None:
        config = client.hub.directory / "ca" / "ca.toml"
    ends = _ends_of_bundles(bundles) | await _ends_of_ca(config)
    nodes = await _nodes(client, ends, fleet)
    roots = arranged(nodes)
    now = SystemClock().now()
    if json:
        print_json({"hub": client.hub.host_name, "at": iso(now), "devices": [node.as_json() for node in roots]})
        return
    text = drawn(client.hub.host_name, roots, form, now)
    if file is None:
        print_block(text)
    else:
        write_public(file, text.encode())
        say(f"{file}: {len(nodes)} devices")


def drawn(hub: str, roots: list[Node], form: Format, now: datetime) -> str:
    """The hierarchy as a picture in one of the forms."""
    match form:
        case "tree":
            return tree(hub, roots, now)
        case "mermaid":
            return mermaid(hub, roots, now)
        case "svg":
            from edgetrust.cli.fleet.svg import svg

            return svg(hub, roots, now)


async def _nodes(client: HubClient, ends: dict[str, datetime], fleet: str | None) -> list[Node]:
    found: list[Node] = []
    serving = {
        str(body["deviceId"]) async for body in _asked(client, _GATEWAYS) if body.get("connectionState") == "Connected"
    }
    async for body in _asked(client, "SELECT * FROM devices"):
        device = str(body["deviceId"])
        mark = (body.get("tags") or {}).get(TAG)
        if fleet is not None and mark != fleet:
            continue
        prints = body.get("x509Thumbprint") or {}
        first = str(prints.get("primaryThumbprint") or "").lower()
        found.append(
            Node(
                device,
                bool((body.get("capabilities") or {}).get("iotEdge")),
                str(body.get("status") or ""),
                auth_word({"authentication": {"type": body.get("authenticationType")}}),
                body.get("connectionState") == "Connected" or device in serving,
                parent_of(body),
                mark if isinstance(mark, str) else "",
                _moment(body.get("lastActivityTime")),
                ends.get(first) if first else ends.get(device),
                auth_tag(body),
            )
        )
    return found


async def _asked(client: HubClient, query: str) -> AsyncIterator[dict[str, Any]]:
    async for page in client.pages("POST", ("devices", "query"), body={"query": query}):
        for body in encoding.loads(page):
            yield body


def _moment(text: object) -> datetime | None:
    return None if not isinstance(text, str) or text.startswith("0001-") else datetime.fromisoformat(text)


def arranged(nodes: Iterable[Node]) -> list[Node]:
    """The nodes below their parents, by name; who has none that is here stands at the top."""
    by_name = {node.device: node for node in nodes}
    roots: list[Node] = []
    for node in sorted(by_name.values(), key=lambda one: (not one.edge, one.device)):
        above = by_name.get(node.parent)
        (roots if above is None or above is node else above.children).append(node)
    return roots


def _ends_of_bundles(folder: Path) -> dict[str, datetime]:
    """When the identity certificates of bundles end, by SHA-256 and by device."""
    found: dict[str, datetime] = {}
    for path in folder.glob("*/identity.cert.pem"):
        try:
            chain = read_chain(path)
        except Error:
            continue
        until = chain.end_entity.not_valid_after_utc
        found[chain.thumbprint().hex().lower()] = until
        found[path.parent.name] = until
    return found


async def _ends_of_ca(config: Path | None) -> dict[str, datetime]:
    """When the certificates end that an authority has issued, by SHA-256; the last one of an identity by its name."""
    if config is None or not await asyncio.to_thread(config.exists):
        return {}
    from edgetrust.ca.settings import load_settings
    from edgetrust.cli.at_ca import opened
    from edgetrust.pki.profiles import DEVICE, DOWNSTREAM
    from edgetrust.store.issuance import find_issued

    found: dict[str, datetime] = {}
    async with opened(load_settings(config)) as authority:
        for profile in (DEVICE.name, DOWNSTREAM.name):
            rows = await authority.database.read(
                lambda connection, profile=profile: find_issued(  # type: ignore[misc]
                    connection, profile=profile, revoked=False, limit=100_000
                )
            )
            for row in rows:
                found[Thumbprint.of(row.certificate).hex().lower()] = row.not_after
                found.setdefault(row.identity, row.not_after)
    return found


# Words and pictures -------------------------------------------------------------------------------------------------


def facts(node: Node, now: datetime) -> list[str]:
    """What a picture says of a device beside its name."""
    said = ["gateway" if node.edge else "device", node.auth]
    if node.enrols:
        said[1:] = [f"{node.enrols}, {'not registered yet' if node.auth == 'sas' else node.auth}"]
    if node.status == "disabled":
        said.append("disabled")
    if node.connected:
        said.append("connected")
    elif node.seen is not None:
        said.append(f"seen {duration(now - node.seen)} ago")
    elif node.parent and not node.edge:
        said.append("behind its gateway")
    else:
        said.append("never seen")
    if node.until is not None:
        left = node.until - now
        said.append(f"certificate ended {duration(left)} ago" if left.days < 0 else f"certificate: {duration(left)}")
    return said


def tree(hub: str, roots: list[Node], now: datetime) -> str:
    """For a terminal."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def add(below: Tree, nodes: list[Node]) -> None:
        for node in nodes:
            text = Text(printable(node.device), style="bold" if node.edge else "")
            text.append(f"  {', '.join(facts(node, now))}")
            add(below.add(text), node.children)

    top = Tree(Text(printable(hub)))
    add(top, roots)
    console = Console(highlight=False, width=10_000, color_system=None)
    with console.capture() as capture:
        console.print(top)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def mermaid(hub: str, roots: list[Node], now: datetime) -> str:
    """A flowchart for pages that draw Mermaid."""
    lines = ["flowchart TD", f'    hub(["{_quoted(hub)}"])']
    names: dict[int, str] = {}

    def add(above: str, nodes: list[Node]) -> None:
        for node in nodes:
            name = names.setdefault(id(node), f"n{len(names)}")
            text = "<br/>".join(_quoted(word) for word in (node.device, *facts(node, now)))
            lines.append(f'    {name}["{text}"]' + ("" if node.connected else ":::away"))
            lines.append(f"    {above} --> {name}")
            add(name, node.children)

    add("hub", roots)
    lines.append("    classDef away stroke-dasharray: 5 5")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Mermaid takes entities like HTML's; what peers chose must not be markup."""
    return "".join(one if one.isalnum() or one in " .,:_-" else f"#{ord(one)};" for one in text)
