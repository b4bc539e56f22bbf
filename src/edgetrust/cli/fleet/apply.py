"""`edgetrust fleet apply`: make a hub and a folder of bundles what a topology says.

Order: the file is read and compared first; then certificates are written down, then the hub is told, gateways before
what is below them, then the bundles are completed. Whatever is interrupted is finished by the next run, and a run that
finds everything as it is to be changes nothing.
"""

from __future__ import annotations

import asyncio
import json as encoding
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient, up_json
from edgetrust.cli.fleet import bundle, files, material
from edgetrust.cli.fleet.enrolling import admit, bar, dps_client, keep_group
from edgetrust.cli.fleet.material import Pair, Source
from edgetrust.cli.fleet.outcome import Outcome, print_outcome
from edgetrust.cli.fleet.plan import (
    Key,
    State,
    auth_tag,
    deletion,
    device_body,
    device_change,
    leavers,
    module_body,
    module_changes,
    strangers,
)
from edgetrust.cli.fleet.services import services_of
from edgetrust.cli.fleet.topology import DPS_EST, Member, Topology, load_topology
from edgetrust.cli.output import Json, say
from edgetrust.clock import SystemClock
from edgetrust.errors import ConfigError, Error, UsageError
from edgetrust.limits import BULK_ITEMS
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.softkeys import write_private, write_public

MQTT_PORT = 8883
_SAY_EVERY = 100
_IDENTITY, _EDGE_CA, _BOOTSTRAP = "identity certificate", "Edge CA", "bootstrap certificate"
_FILES = {
    _IDENTITY: (files.IDENTITY, files.IDENTITY_KEY),
    _EDGE_CA: (files.EDGE_CA, files.EDGE_CA_KEY),
    _BOOTSTRAP: (files.BOOTSTRAP, files.BOOTSTRAP_KEY),
}


class FleetIncompleteError(Error):
    """The hub refused some of it; each is named on stderr."""


@dataclass
class _Held:
    """The certificates of a member, by kind, and why those are to be made that are not there."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @property
    def thumbprint(self) -> str | None:
        identity = self.pairs.get(_IDENTITY)
        return None if identity is None else identity.chain.thumbprint().hex().lower()

    def in_bundle(self) -> bundle.Held:
        return bundle.Held(*(self.pairs.get(kind) for kind in _FILES))


@at_hub
async def apply(
    client: HubClient,
    file: Annotated[Path, typer.Argument(metavar="TOPOLOGY", help="The fleet, as YAML.")],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="D", help="Where the bundles go: a folder and an archive each.")
    ] = Path("fleet"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what belongs to the fleet and is not in the file any more.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over identities of the same name that are not of this fleet.")
    ] = False,
    json: Json = False,
) -> None:
    topology = load_topology(file)
    state = await read_state(client)
    others = strangers(topology, state)
    if others and not adopt:
        named = ", ".join(f"{one.id} (line {one.line})" for one in others[:10])
        raise UsageError(
            f"at the hub already, and not of the fleet {topology.file.name}: {named}",
            reason="fleet-not-ours",
            fix="choose other identifiers, or take them over with --adopt: their authentication and parent change",
        )
    async with _source(topology, client) as source:
        run = _Run(client, topology, source, out, state)
        outcome = await run.everything(dry_run=dry_run, prune=prune)
    print_outcome(outcome, topology.file.name, out, dry_run=dry_run, prune=prune, json=json)


async def read_state(client: HubClient) -> dict[Key, dict[str, Any]]:
    """The registry, keys included."""
    found: dict[Key, dict[str, Any]] = {}
    async for page in client.pages("GET", ("edgetrust", "identities"), query={"excludeKeys": "false"}):
        for line in page.splitlines():
            body = encoding.loads(line)
            found[str(body["id"]), body.get("moduleId")] = body
    return found


@asynccontextmanager
async def _source(topology: Topology, client: HubClient) -> AsyncIterator[Source]:
    """Who issues: what the file names, or the CA of the hub of `edgetrust up`."""
    wish, folder = topology.file.certificates, topology.source.parent
    if wish.demo is not None:
        async with material.opened(None, folder / wish.demo) as source:
            yield source
        return
    ca = folder / wish.ca if wish.ca is not None else None
    if ca is None and client.hub.directory is not None:
        ca = client.hub.directory / "ca" / "ca.toml"
    if ca is None or not ca.exists():
        raise ConfigError(
            f"{topology.source}: nobody issues certificates" + (f": {ca} does not exist" if ca is not None else ""),
            reason="fleet-no-ca",
            fix="set certificates.ca to the ca.toml of edgetrust ca, or certificates.demo to a folder for a trial",
        )
    async with material.opened(ca, None) as source:
        yield source


class _Run:
    """One apply."""

    def __init__(self, client: HubClient, topology: Topology, source: Source, out: Path, state: State) -> None:
        self._client = client
        self._topology = topology
        self._fleet = topology.file.name
        self._source = source
        self._out = out
        self._state: State = state
        self._now = SystemClock().now()
        self._life = timedelta(days=topology.file.certificates.days)
        self._place = hub_place(client, topology)
        self._services = services_of(topology, client, source.anchors, self._place.roots, self._now)
        self._held: dict[str, _Held] = {}
        self._outcome = Outcome(members=len(topology.members))
        self._failed: list[str] = []

    async def everything(self, *, dry_run: bool, prune: bool) -> Outcome:
        for member in self._topology.members:
            self._held[member.id] = await asyncio.to_thread(self._look, member)
        self._note_certificates()
        self._outcome.left = leavers(self._topology, self._state)
        if dry_run:
            for member in self._topology.members:
                self._note(member)
            if prune:
                self._outcome.changes += self._outcome.left
            await self._enrollment_group(dry_run=True)
            return self._outcome
        await self._make_certificates()
        await self._register()
        await self._enrollment_group(dry_run=False)
        if prune:
            await self._prune()
        if self._failed:
            raise FleetIncompleteError(
                f"{len(self._failed)} of {self._outcome.members} could not be registered",
                reason="fleet-incomplete",
                fix="mend what is named above and apply again: what is done stays done",
            )
        if self._outcome.changes:
            self._state = await read_state(self._client)
        await asyncio.to_thread(self._write_bundles)
        return self._outcome

    # Certificates ---------------------------------------------------------------------------------------------------

    def folder(self, member: Member) -> Path:
        return self._out / bundle.folder_name(member.id)

    def _look(self, member: Member) -> _Held:
        """What of the certificates that lie in the bundle still serves."""
        folder, found, anchors = self.folder(member), _Held(), self._source.anchors
        for kind, name in self._kinds(member).items():
            certificate, key = (folder / one for one in _FILES[kind])
            pair, why = material.held(certificate, key, name, anchors, self._now)
            if pair is None:
                found.why[kind] = why
            else:
                found.pairs[kind] = pair
        return found

    def _kinds(self, member: Member) -> dict[str, str]:
        """The certificates that a member's bundle has to have, with their common names."""
        if member.auth == DPS_EST:
            assert self._services is not None
            assert self._services.est is not None
            return {_BOOTSTRAP: member.id} if self._services.est.password is None else {}
        kinds = {} if member.auth == "sas" else {_IDENTITY: member.id}
        return kinds if member.gateway is None else {**kinds, _EDGE_CA: material.edge_ca_name(member.id)}

    def _note_certificates(self) -> None:
        for device, held in self._held.items():
            self._outcome.certificates += [f"{device}: {kind} ({why})" for kind, why in held.why.items()]

    async def _make_certificates(self) -> None:
        total, done = len(self._outcome.certificates), 0
        for member in self._topology.members:
            held, folder = self._held[member.id], self.folder(member)
            for kind in held.why:
                held.pairs[kind] = await self._make(kind, member.id)
                await asyncio.to_thread(_keep, held.pairs[kind], *(folder / one for one in _FILES[kind]))
                done += 1
                if total > _SAY_EVERY and done % _SAY_EVERY == 0:
                    say(f"{done} of {total} certificates")

    async def _make(self, kind: str, device: str) -> Pair:
        if kind == _IDENTITY:
            return await material.identity_pair(self._source, device, self._life)
        if kind == _EDGE_CA:
            return await material.edge_ca_pair(self._source, device, self._life)
        return await material.bootstrap_pair(self._source, device)

    # The hub --------------------------------------------------------------------------------------------------------

    def _note(self, member: Member) -> bool:
        """Write down what has to happen to a member at the hub. Whether it is anything to the device itself."""
        thumbprint = self._held[member.id].thumbprint or ""
        change = device_change(member, self._state, self._fleet, thumbprint)
        if change is not None:
            self._outcome.tell(change)
        for one in module_changes(member, self._state, self._fleet):
            self._outcome.tell(one)
        return change is not None

    async def _register(self) -> None:
        scopes = {key[0]: body.get("deviceScope") for key, body in self._state.items() if key[1] is None}
        modules: list[dict[str, Any]] = []
        for level in self._topology.levels():
            bodies, made = [], []
            for member in level:
                if member.parent is not None and member.parent.id in self._failed:
                    self._failed.append(member.id)  # never above its place: there its gateway would not protect it
                    say(f"{member.id}: not registered, since its gateway {member.parent.id} was not")
                    continue
                scope = None if member.parent is None else scopes.get(member.parent.id)
                if self._note(member):
                    held = self._held[member.id]
                    bodies.append(device_body(member, self._state, self._fleet, held.thumbprint, scope))
                    made += [member.id] if member.gateway is not None else []
                modules += [
                    module_body(change.key, self._state, self._fleet)
                    for change in module_changes(member, self._state, self._fleet)
                ]
            await self._send(bodies, f"level {level[0].depth + 1}")
            for gateway in made:  # a new one has a new scope, and who is below it needs that
                scopes[gateway] = await self._scope_of(gateway)
            if made:
                self._state = {**self._state, **{(one, None): self._with_scope(one, scopes[one]) for one in made}}
        await self._send(modules, "modules")

    def _with_scope(self, gateway: str, scope: str | None) -> dict[str, Any]:
        return {**self._state.get((gateway, None), {}), "deviceScope": scope}

    async def _scope_of(self, gateway: str) -> str | None:
        if gateway in self._failed:
            return None
        return str((await self._client.get("devices", gateway)).get("deviceScope"))

    async def _enrollment_group(self, *, dry_run: bool) -> None:
        """By which the provisioning service knows the gateways that are to register."""
        if not self._topology.enrolling or self._services is None or self._services.dps is None:
            return
        dps, client = self._services.dps, dps_client(self._topology, self._client)
        if client is None:
            first = self.folder(self._topology.enrolling[0]) / files.TRUST
            say(
                f"nobody said how to manage {dps.endpoint}: see that gateways may register there, with edgetrust group "
                f"create {dps.group} --edge --certificate {first} --hub-name {self._place.name}"
            )
            return
        anchors, hub = self._source.anchors, self._place.name
        new = {change.key[0] for change in self._outcome.changes if change.verb == "create"}
        async with client:
            self._outcome.services = await keep_group(client, self._fleet, dps.group, hub, anchors, dry_run=dry_run)
            for member in self._topology.enrolling:
                if member.id in new and not dry_run:
                    await admit(client, self._fleet, member.id)

    async def _bar(self, gone: list[str]) -> None:
        """Gateways that are to go could register again."""
        client = dps_client(self._topology, self._client) if gone else None
        if client is not None:
            async with client:
                for device in gone:
                    await bar(client, self._fleet, device)
        elif gone:
            say(f"may still register: {', '.join(gone)}; bar each with edgetrust enrollment create NAME --disabled")

    async def _prune(self) -> None:
        gone = self._outcome.left
        devices = [change.key[0] for change in gone if change.key[1] is None]
        await self._bar([device for device in devices if auth_tag(self._state[device, None])])
        # What is furthest down goes first, so that nobody is left below somebody who is gone.
        await self._send([deletion(change.key) for change in gone if change.key[1] is not None], "modules to delete")
        await self._send([deletion(change.key) for change in gone if change.key[1] is None], "devices to delete")
        self._outcome.changes += gone
        for change in gone:
            if change.key[1] is None and bundle.remove(self._out / bundle.folder_name(change.key[0])):
                self._outcome.bundles.append(change.key[0])
        self._outcome.left = []

    async def _send(self, bodies: Sequence[dict[str, Any]], what: str) -> None:
        for start in range(0, len(bodies), BULK_ITEMS):
            batch = list(bodies[start : start + BULK_ITEMS])
            answer = await self._client.request("POST", ("devices",), body=batch, also=(400,))
            if "errors" not in (answer or {}):
                raise UsageError(f"{what}: the hub refuses all of it: {answer}", reason="fleet-refused")
            for error in answer["errors"]:
                name = "/".join(str(error[part]) for part in ("deviceId", "moduleId") if error.get(part))
                self._failed.append(str(error["deviceId"]))
                say(f"{name}: {error['errorCode']}: {error['errorStatus']}")
            if len(bodies) > BULK_ITEMS:
                say(f"{what}: {start + len(batch)} of {len(bodies)}")

    # Bundles --------------------------------------------------------------------------------------------------------

    def _write_bundles(self) -> None:
        anchors = [one for path in self._topology.file.certificates.trust for one in self._certificates_of(path)]
        roots = TrustBundle((*self._source.anchors, *anchors), as_of=self._now)
        installed = Path(self._topology.file.install_dir)
        for number, member in enumerate(self._topology.members, 1):
            held, target = self._held[member.id].in_bundle(), installed / bundle.folder_name(member.id)
            keys = self._keys(member)
            if member.gateway is not None:
                content = bundle.gateway_files(member, self._place, self._services, target, roots, held, keys)
            else:
                content = bundle.device_files(member, self._place, target, roots, held.identity, keys)
            if bundle.write(self.folder(member), content):
                self._outcome.bundles.append(member.id)
            if number % _SAY_EVERY == 0:
                say(f"{number} of {self._outcome.members} bundles")

    def _certificates_of(self, path: str) -> tuple[Any, ...]:
        return read_chain(self._topology.source.parent / path).certificates

    def _keys(self, member: Member) -> dict[str | None, str]:
        found: dict[str | None, str] = {}
        for module in (None, *member.table.modules):
            body = self._state.get((member.id, module)) or {}
            key = ((body.get("authentication") or {}).get("symmetricKey") or {}).get("primaryKey")
            if key:
                found[module] = str(key)
            elif module is not None or member.auth == "sas":
                raise ConfigError(
                    f"{member.id}{'/' + module if module else ''} has no symmetric key at the hub",
                    reason="fleet-key-missing",
                    fix="delete it at the hub and apply again, or roll its key: edgetrust device roll-key",
                )
        return found


def hub_place(client: HubClient, topology: Topology) -> files.HubPlace:
    """How the top of the fleet reaches the hub: as the file says, and else as the command does."""
    said, hub = topology.file.hub, client.hub
    ports: dict[str, Any] = {} if hub.directory is None else up_json(hub.directory)["hub"]
    roots = None
    if hub.trust_file is not None:
        roots = TrustBundle(read_chain(hub.trust_file).certificates, as_of=SystemClock().now())
    return files.HubPlace(
        said.name or hub.host_name,
        said.address,
        said.mqtt_port or ports.get("mqtt_port") or MQTT_PORT,
        said.https_port or ports.get("https_port") or urlsplit(hub.base_url).port or 443,
        roots,
    )


def _keep(pair: Pair, certificate: Path, key: Path) -> None:
    """The key first: a certificate without its key is found out and made anew by the next run."""
    write_private(key, pair.key.private_pem().reveal())
    write_public(certificate, pair.chain.pem().encode())
