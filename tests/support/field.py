"""A fleet's whole infrastructure as an operator has it: a certificate authority, a hub, gateways that get their
certificates by EST, and links between them that can be cut. Real processes on loopback, handled by commands.

Gateways are set up as the field does it: a bootstrap certificate at first, EST for identity and Edge CA, short lives.
The CA's root can be rotated step by step; `rotation` does by hand what an operator does at each step.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.ca import rotation as rotating
from edgetrust.ca.authority import CertificateAuthority, Order
from edgetrust.ca.settings import load_settings
from edgetrust.cli.at_ca import opened
from edgetrust.cli.client import HubClient, find_hub
from edgetrust.cli.main import run
from edgetrust.device.est import EstServer, Shown, ca_certificates
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.csr import request_for
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private, write_public
from edgetrust.protocol.sas import resource_text, sign
from support.device_fleet import Credentials
from support.edge_world import Gateway, Process
from support.ports import free_port
from support.proxy import Proxy

HUB = "localhost"
FOR_EVER = 4_000_000_000  # when a device's token ends
BULK = 100
PAGE = 1000
_MQTT, _HTTPS = ("hub", 8883), ("hub", 443)


def command(*arguments: str) -> str:
    """What `edgetrust` prints; in this process, since starting one costs more than most commands do."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(list(arguments))
    assert code == 0, f"{arguments}: {err.getvalue()}"
    return out.getvalue()


@dataclass
class Life:
    """How long what gateways are issued lives, in minutes, and from which part of it on it is renewed."""

    minutes: int = 1
    threshold: str = "81%"

    def renew(self) -> str:
        return f'{{ rotate_key = true, threshold = "{self.threshold}", retry = "1%" }}'


@dataclass
class Link:
    """What carries one gateway to the hub, and can be cut."""

    proxy: Proxy
    sockets: list[socket.socket]
    routes: dict[tuple[str, int], int]

    @property
    def ports(self) -> tuple[int, int]:
        mqtt, https = (int(one.getsockname()[1]) for one in self.sockets)
        return mqtt, https

    def cut(self) -> None:
        """What is open ends, and nothing gets through."""
        self.proxy.routes.clear()
        self.proxy.cut()

    def restore(self) -> None:
        self.proxy.routes.update(self.routes)


@dataclass
class FieldGateway(Gateway):
    """A gateway of the field, and what it reaches the hub by."""

    device: str = ""
    link: Link | None = None

    @property
    def at(self) -> tuple[str, int, str]:
        """Where devices dial it, and the name they verify."""
        return "127.0.0.1", int(self.ready["gateway"]["mqtt_port"]), self.hostname


@dataclass
class Field:
    """Everything. Make it with `Field(folder)`, then `begin`."""

    folder: Path
    life: Life = field(default_factory=Life)
    gateways: list[FieldGateway] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ca_folder, self.hub_folder = self.folder / "ca", self.folder / "hub"
        self.trust_file, self.config = self.folder / "roots.pem", self.ca_folder / "ca.toml"
        self.ca_port, self.hub_ports = free_port(), (free_port(), free_port())
        self.ca = Process(["ca", "serve", "-c", str(self.config), "--json"], self.folder / "ca.log")
        self.hub = Process(["hub", "serve", "-c", str(self.hub_folder / "hub.toml"), "--json"], self.folder / "hub.log")
        self.secret_file = self.folder / "service.txt"

    # Start ----------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the CA and the hub, and start them."""
        command("ca", "init", "--dir", str(self.ca_folder), "--organization", "Field")
        self.hub_folder.mkdir()
        database = f"sqlite:///{self.hub_folder / 'hub.sqlite'}"
        lives = "\n".join(f'{kind} = "{self.life.minutes} min"' for kind in ("device", "edge-ca"))
        self.config.write_text(
            f'[ca]\nregistry = "{database}"\n[listen]\nhost = "127.0.0.1"\nhttps_port = {self.ca_port}\n'
            f'names = ["localhost"]\n[lifetimes]\n{lives}\n'
        )
        self.export_trust()
        self.issue_hub_certificate()
        mqtt, https = self.hub_ports
        (self.hub_folder / "hub.toml").write_text(
            f'[hub]\nname = "{HUB}"\nallow_edge_ca = true\n'
            f'[listen]\nhost = "127.0.0.1"\nmqtt_port = {mqtt}\nhttps_port = {https}\n'
            f'[tls]\ncertificate = "hub.pem"\nkey = "hub.key"\ntrust_bundle = "{self.trust_file}"\n'
        )
        self.hub.start()
        write_private(self.secret_file, str(self.hub.ready["service_connection_string"]).encode())
        self.trust_root("root")
        self.ca.start()

    def close(self) -> None:
        for process in (*self.gateways, self.ca, self.hub):
            process.stop()
        for link in self.links:
            link.proxy.__exit__(None, None, None)

    # Commands -------------------------------------------------------------------------------------------------------

    def ca_command(self, *arguments: str) -> str:
        return command("ca", *arguments, "-c", str(self.config))

    def hub_command(self, *arguments: str) -> str:
        place = ("--hub", f"https://localhost:{self.hub_ports[1]}", "--connection-string-file", str(self.secret_file))
        return command(*arguments, *place, "--ca", str(self.trust_file))

    def ask_hub(self, *requests: tuple[str, Sequence[str], Any]) -> list[Any]:
        """Requests to the hub's REST interface, one after the other."""
        url = f"https://localhost:{self.hub_ports[1]}"

        async def ask() -> list[Any]:
            async with HubClient(find_hub(None, url, self.secret_file, self.trust_file)) as client:
                return [await client.request(how, path, body=body) for how, path, body in requests]

        return asyncio.run(ask())

    # Certificates ---------------------------------------------------------------------------------------------------

    def export_trust(self) -> None:
        """The roots that are in circulation, for whatever does not fetch them itself."""
        self.ca_command("export", "--out", str(self.trust_file))

    @property
    def trust(self) -> str:
        return self.trust_file.read_text()

    def issue(self, folder: Path, name: str, common_name: str, *options: str, hosts: Sequence[str] = ()) -> None:
        """`name.pem` and `name.key` in a folder, issued on the operator's word."""
        key = SoftKey.generate(name, KeyAlgorithm.P256)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        names = ((x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False),) if hosts else ()
        request = folder / f"{name}.csr"
        request.write_bytes(request_for(key, subject, names))
        new = folder / f"{name}.pem.new"
        self.ca_command("issue", str(request), *options, "--out", str(new))
        write_private(folder / f"{name}.key", key.private_pem().reveal())
        new.replace(folder / f"{name}.pem")

    def issue_hub_certificate(self) -> None:
        """A server certificate for the hub; one that runs takes it up by itself."""
        self.issue(self.hub_folder, "hub", HUB, "--profile", "hub-server", hosts=(HUB,))

    def authorities(self) -> dict[str, dict[str, Any]]:
        """The CAs, by name."""
        return {one["name"]: one for one in json.loads(self.ca_command("list", "--authorities", "--json"))}

    def trust_root(self, name: str) -> None:
        """Devices may authenticate below this CA."""
        file = self.folder / f"{name}.pem"
        self.ca_command("export", "--authority", name, "--out", str(file))
        self.hub_command("hub", "ca", "add", name, str(file), "--verified")

    # Gateways -------------------------------------------------------------------------------------------------------

    def gateway(self, device: str) -> FieldGateway:
        """A registered and configured gateway that is not started yet."""
        self.hub_command("device", "create", device, "--edge", "--auth", "ca")
        folder = self.folder / device
        folder.mkdir()
        self.issue_bootstrap(folder, device)
        link = self._link()
        mqtt, https = link.ports
        renew = self.life.renew()
        (folder / "config.toml").write_text(
            f"""
hostname = "localhost"
trust_bundle_cert = "file://{self.trust_file}"

[provisioning]
source = "manual"
iothub_hostname = "{HUB}"
device_id = "{device}"

[provisioning.authentication]
method = "x509"

[provisioning.authentication.identity_cert]
method = "est"
auto_renew = {renew}

[cert_issuance.est]
trusted_certs = ["file://{self.trust_file}"]
identity_auto_renew = {renew}

[cert_issuance.est.auth]
bootstrap_identity_cert = "file://{folder}/bootstrap.pem"
bootstrap_identity_pk = "file://{folder}/bootstrap.key"

[cert_issuance.est.urls]
default = "{self.est_url}"

[edge_ca]
method = "est"
auto_renew = {renew}

[edgetrust.gateway]
server_key = "ec-p256"

[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = {free_port()}
https_port = 0

[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {mqtt}
https_port = {https}
ca = "file://{self.trust_file}"
"""
        )
        root = folder / "root"
        made = FieldGateway(
            ["edge", "serve", "-c", str(folder / "config.toml"), "--root", str(root), "--json"],
            folder / "gateway.log",
            root=root,
            hostname="localhost",
            trust=self.trust_file,
            device=device,
            link=link,
        )
        self.gateways.append(made)
        return made

    def issue_bootstrap(self, folder: Path, device: str) -> None:
        self.issue(folder, "bootstrap", device, "--profile", "bootstrap", "--days", "365")

    def _link(self) -> Link:
        mqtt, https = self.hub_ports
        link = Link(Proxy({}), [_listening() for _ in range(2)], {_MQTT: mqtt, _HTTPS: https})
        link.restore()
        link.proxy.__enter__()
        for address, listening in zip((_MQTT, _HTTPS), link.sockets, strict=True):
            link.proxy.stand_for(address, listening)
        self.links.append(link)
        return link

    # Devices --------------------------------------------------------------------------------------------------------

    def register(self, names: Iterable[str], gateway: str, *, by_ca: bool = False) -> list[Credentials]:
        """Devices below a gateway: with keys, or with a certificate of our CA."""
        (parent,) = self.ask_hub(("GET", ("devices", gateway), None))
        keys = {} if by_ca else {name: secrets.token_bytes(32) for name in names}
        wanted = list(names) if by_ca else list(keys)
        entries = [self._entry(name, parent["deviceScope"], keys.get(name)) for name in wanted]
        parts = [entries[start : start + BULK] for start in range(0, len(entries), BULK)]
        self.ask_hub(*(("POST", ("devices",), part) for part in parts))
        if by_ca:
            return self.certify(wanted)
        return [Credentials(name, HUB, sign(key, resource_text(HUB, name), FOR_EVER)) for name, key in keys.items()]

    def _entry(self, name: str, scope: str, key: bytes | None) -> dict[str, Any]:
        authentication: dict[str, Any] = {"type": "certificateAuthority"}
        if key is not None:
            text = base64.b64encode(key).decode()
            authentication = {"type": "sas", "symmetricKey": {"primaryKey": text, "secondaryKey": text}}
        return {"id": name, "importMode": "create", "authentication": authentication, "deviceScope": scope}

    def certify(self, names: Iterable[str]) -> list[Credentials]:
        """Certificates for devices, as `edgetrust ca issue --days 30` makes them, without a process for each."""

        async def issue() -> list[Credentials]:
            async with opened(load_settings(self.config)) as ca:
                return [await self._certify(ca, name) for name in names]

        return asyncio.run(issue())

    async def _certify(self, ca: CertificateAuthority, name: str) -> Credentials:
        key = SoftKey.generate(name, KeyAlgorithm.P256)
        order = Order(key.public_key(), DEVICE, Names(name), name, "issue", "operator", validity=timedelta(days=30))
        issued = await ca.issue(order)
        folder = self.folder / "devices"
        folder.mkdir(exist_ok=True)
        certificate = folder / f"{name}-{issued.chain.thumbprint().hex()[:8]}.pem"
        write_public(certificate, Chain(issued.chain.certificates[:2]).pem().encode())
        write_private(certificate.with_suffix(".key"), key.private_pem().reveal())
        return Credentials(name, HUB, certificate=(str(certificate), str(certificate.with_suffix(".key"))))

    def fetch_trust(self, devices: Iterable[Credentials]) -> None:
        """Each asks for the CA certificates with its own certificate, now and then, until it has all roots: a server
        hears of a new one within seconds.
        """

        bundle = TrustBundle.from_pem(self.trust_file.read_bytes(), as_of=datetime.now(UTC))

        async def fetch() -> None:
            for device in devices:
                assert device.certificate is not None
                chain, key = (Path(file) for file in device.certificate)
                shown = Shown(Chain.from_pem(chain.read_bytes()), load_key_file(key))
                while not set(bundle.anchors) <= set(await ca_certificates(EstServer(self.est_url, bundle), shown)):
                    await asyncio.sleep(0.5)

        asyncio.run(fetch())

    @property
    def est_url(self) -> str:
        return f"https://localhost:{self.ca_port}/.well-known/est"

    # What is at the hub ---------------------------------------------------------------------------------------------

    def log(self) -> dict[str, list[int]]:
        """The numbers of the messages at the hub, by device, in the order of the log."""
        url, found = f"https://localhost:{self.hub_ports[1]}", dict[str, list[int]]()

        async def read() -> None:
            after = 0
            async with HubClient(find_hub(None, url, self.secret_file, self.trust_file)) as client:
                while True:
                    page = await client.get("edgetrust", "events", after=str(after), limit=str(PAGE))
                    for event in page["events"]:
                        found.setdefault(event["device"], []).append(int(event["bodyText"]))
                    if not page["events"] or page["next"] == after:
                        return
                    after = page["next"]

        asyncio.run(read())
        return found

    def wait_forwarded(self, seconds: float = 60) -> None:
        """Until no gateway has anything left for the hub."""
        deadline = time.monotonic() + seconds
        while any(one.state()["queue"]["messages"] for one in self.gateways):
            assert time.monotonic() < deadline, [one.state()["queue"] for one in self.gateways]
            time.sleep(0.1)

    # A new root -----------------------------------------------------------------------------------------------------

    def advance(self, *options: str) -> str:
        """The next step of the root's rotation; at which stage it is now. RefusedError's text is in the assertion."""
        (after,) = json.loads(self.ca_command("rotate", "advance", "root", "--json", *options))
        return str(after["stage"])

    def lacking(self) -> set[str]:
        """Whose evidence the next step of the root's rotation waits for, as `edgetrust ca rotate show` says it."""

        async def look() -> set[str]:
            async with opened(load_settings(self.config)) as ca:
                step = await rotating.preview(ca, await rotating.named(ca, "root"))
                return {one.who for one in step.lacks}

        return asyncio.run(look())

    def wait_lacking(self, wanted: set[str], seconds: float = 90) -> None:
        """Until the next step waits for these only."""
        deadline = time.monotonic() + seconds
        while (lacking := self.lacking()) != wanted:
            assert time.monotonic() < deadline, f"evidence is missing from {sorted(lacking)[:10]}"
            time.sleep(1)

    def distribute_new_root(self) -> None:
        """The new root beside the old one, for whatever does not fetch it: gateways' files, and the hub's CAs."""
        self.ca_command("rotate", "start", "root")
        assert self.advance() == "distributed"
        self.export_trust()
        self.trust_root("root-2")

    def activate_new_root(self) -> None:
        """The new root issues, and what an operator has issued by hand is issued again."""
        assert self.advance("--despite-missing") == "active"  # the hub has its certificate and the new root by hand
        self.issue_hub_certificate()
        for gateway in self.gateways:
            self.issue_bootstrap(gateway.root.parent, gateway.device)

    def retire_old_root(self) -> None:
        """Nobody uses it any more, and nobody accepts it from now on."""
        assert self.advance() == "retired"
        self.export_trust()
        self.hub_command("hub", "ca", "remove", "root")

    # Faults ---------------------------------------------------------------------------------------------------------

    def kill(self, process: Process) -> tuple[float, float]:
        """SIGKILL, and start it again; from when to when it was away (monotonic)."""
        begin = time.monotonic()
        process.stop(signal.SIGKILL)
        process.start()
        return begin, time.monotonic()


@dataclass
class Measured:
    """Memory in MiB, and open descriptors of a process."""

    memory: float
    descriptors: int

    @classmethod
    def of(cls, process: Process) -> Measured:
        assert process.running is not None
        place = Path(f"/proc/{process.running.pid}")
        (line,) = [one for one in (place / "status").read_text().splitlines() if one.startswith("VmRSS")]
        return cls(int(line.split()[1]) / 1024, len(list((place / "fd").iterdir())))


def presented(address: tuple[str, int, str], trust: str) -> x509.Certificate:
    """The end entity that a server shows to who believes in `trust`. Raises ssl.SSLError."""
    context = ssl.create_default_context(cadata=trust)
    host, port, name = address
    with (
        socket.create_connection((host, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def roots(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def as_pem(certificates: Iterable[x509.Certificate]) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def _listening() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(128)
    return made
