"""The article's world as processes on loopback: the hub of Contoso, EdgeGateway and TempSensor under their real names.

Nothing resolves those names here. `openssl s_client` dials an address and checks a name; curl is told where a name
leads; mosquitto's clients go through a SOCKS proxy that knows. Those tools, not this project, judge what is shown.

    Contoso Global Root > Contoso TLS CA 1 > *.azure-devices.net              the hub, as the operating system trusts it
    my_private_root_CA > my_optional_intermediate_CA > iotedged workload ca edgegateway > edgegateway.local
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support import forked
from support.edge_world import wait_until, write_holder
from support.forked import Forked
from support.pki import SERVER, Holder, key, root
from support.ports import free_port
from support.proxy import Proxy

HUB = "contosoiothub.azure-devices.net"
HUB_AS_TYPED = "ContosoIoTHub.Azure-devices.NET"
GATEWAY = "edgegateway.local"
ROOT_CA, INTERMEDIATE_CA = "my_private_root_CA", "my_optional_intermediate_CA"
EDGE_CA = "iotedged workload ca edgegateway"
API = "2021-04-12"
SECONDS = 60.0
PACKAGES = {
    "openssl": "openssl",
    "curl": "curl",
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "ss": "iproute2",
    "sha256sum": "coreutils",
    "stat": "coreutils",
    "stdbuf": "coreutils",
    "bash": "bash",
}
_SBIN = "/usr/sbin:/sbin"
# Without what would make curl and others trust something else than what a test says.
_STRANGE = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "EDGETRUST_DIR")
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in _STRANGE}
_SHOWN = re.compile(r"^ *(\d+) s:(.*)\n +i:(.*)$", re.MULTILINE)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)


# Tools --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a program left behind."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def program(name: str) -> str:
    """Where a program is. One that is missing fails the test and names its package."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    assert path is not None, f"{name} is missing: install the Debian package {PACKAGES.get(name, name)}"
    return path


def tool(
    name: str, *arguments: str | Path, say: str = "", env: Mapping[str, str] | None = None, seconds: float = 60
) -> Done:
    """Run a program to its end. `say` goes to its standard input."""
    command = [program(name), *map(str, arguments)]
    done = subprocess.run(
        command,
        input=say.encode(),
        capture_output=True,
        env={**_ENVIRONMENT, **(env or {})},
        timeout=seconds,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def edgetrust(*arguments: str | Path, env: Mapping[str, str] | None = None, say: str = "", seconds: float = 60) -> Done:
    """Run `edgetrust ARGUMENTS` to its end; from the start of Python where its environment is another one."""
    if env is None:
        done = forked.run(*map(str, arguments), timeout=seconds, stdin=say, env=_ENVIRONMENT)
        return Done(done.returncode, done.stdout, done.stderr)
    return tool(sys.executable, "-m", "edgetrust.cli", *arguments, env=env, say=say, seconds=seconds)


def x509(file: Path | str, *options: str) -> str:
    """What `openssl x509` prints of the first certificate in a file (or in a PEM text)."""
    given = ("-in", file) if isinstance(file, Path) else ()
    done = tool("openssl", "x509", *given, "-noout", *options, say="" if isinstance(file, Path) else file)
    assert done.code == 0, done.err
    return done.out.strip()


def fingerprint(file: Path | str, algorithm: str = "sha256") -> str:
    """The fingerprint by openssl, upper case, without colons: what a registry stores."""
    return x509(file, "-fingerprint", f"-{algorithm}").partition("=")[2].replace(":", "")


def public_key(file: Path | str) -> str:
    """The digest of the public key in a certificate, by openssl and sha256sum."""
    return tool("sha256sum", say=x509(file, "-pubkey")).out.split()[0]


def verify(certificate: Path, *options: str | Path) -> Done:
    """`openssl verify`, without the trust store of this machine."""
    return tool("openssl", "verify", "-no-CApath", "-no-CAstore", *options, certificate)


@dataclass(frozen=True)
class Seen:
    """What `openssl s_client` saw of a server."""

    text: str

    @property
    def listing(self) -> list[tuple[str, str]]:
        """Subject and issuer of each certificate that was sent, the end entity first."""
        return [(subject.strip(), issuer.strip()) for _, subject, issuer in _SHOWN.findall(self.text)]

    @property
    def certificates(self) -> list[str]:
        """The certificates that were sent, PEM; needs -showcerts, else the end entity only."""
        found = _PEM.findall(self.text)
        return found[: len(self.listing)]

    @property
    def verified(self) -> bool:
        return "Verify return code: 0 (ok)" in self.text

    @property
    def problems(self) -> list[str]:
        """The verification errors, like "verify error:num=20:unable to get local issuer certificate"."""
        return re.findall(r"verify error:(\S.*)", self.text)


def look(port: int, *options: str | Path, say: str = "", env: Mapping[str, str] | None = None) -> Seen:
    """Connect with `openssl s_client` to a port of this machine."""
    return Seen(tool("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options, say=say, env=env).text)


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens there."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, seconds)


def listens(port: int) -> bool:
    """Whether anybody accepts connections on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Background:
    """A program of others that runs beside a test, its output in a file."""

    name: str
    arguments: list[str | Path]
    log: Path

    def __enter__(self) -> Background:
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [program(self.name), *map(str, self.arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None


def false_server(folder: Path, holder: Holder, *options: str | Path, key_file: Path | None = None) -> FalseServer:
    """`openssl s_server` with a certificate of our choice, started by `with`."""
    certificate, its_key = write_holder(folder, f"server-{free_port()}", holder)
    chain = ["-cert_chain", certificate] if holder.issuer is not None and holder.issuer.issuer is not None else []
    port = free_port()
    arguments = ["s_server", "-accept", str(port), "-cert", certificate, "-key", key_file or its_key, *chain]
    return FalseServer("openssl", [*arguments, *options], folder / f"s_server-{port}.log", port)


@dataclass
class FalseServer(Background):
    """`openssl s_server`."""

    port: int = 0

    def __enter__(self) -> FalseServer:
        super().__enter__()
        try:
            wait_until(lambda: listens(self.port) or self.ended)
            assert not self.ended, self.text
        except BaseException:
            self.__exit__()
            raise
        return self


# Processes of ours --------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """`edgetrust ARGUMENTS`, which prints one JSON line when it is ready and logs JSON."""

    arguments: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    _popen: subprocess.Popen[str] | Forked | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        assert self._popen is not None
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, f"not ready: {self.text()[-2000:]}"
        self.ready = json.loads(line)

    def launch(self) -> None:
        """Start it without waiting."""
        with self.log.open("a") as log:
            if not self.environment:
                self._popen = Forked(self.arguments, stderr=log, env=_ENVIRONMENT)
                return
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "edgetrust.cli", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**_ENVIRONMENT, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for its own end."""
        assert self._popen is not None
        code = self._popen.wait(seconds)
        self._close()
        return code

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._popen is None:
            return
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        try:
            self._popen.wait(SECONDS)
        finally:
            self._close()

    def _close(self) -> None:
        assert self._popen is not None
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._popen = None

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def logged(self, event: str = "") -> list[dict[str, Any]]:
        """The entries of its log, all or those of one event."""
        entries = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [entry for entry in entries if not event or entry.get("event") == event]


@dataclass
class Site(Service):
    """A gateway and the files it lives from."""

    folder: Path = Path()
    device: str = ""
    hostname: str = ""
    trust: Path = Path()
    config: Path = Path()
    identity: Holder | None = None

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def port(self) -> int:
        return int(self.ready["gateway"]["mqtt_port"])

    @property
    def certificates(self) -> Path:
        return self.root / "var/lib/aziot/certd/certs"

    @property
    def keys(self) -> Path:
        return self.root / "var/lib/aziot/keyd/keys"

    def file(self, prefix: str) -> Path:
        """The one certificate file whose name starts so."""
        found = list(self.certificates.glob(f"{prefix}*.cer"))
        assert len(found) == 1, found
        return found[0]

    @property
    def edge_ca(self) -> Path:
        return self.file("aziotedgedca-")

    @property
    def server(self) -> Path:
        return self.file("aziotedgedmoduleedgeHub")

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "var/lib/edgetrust/status.json").read_text()))

    def wait_for_hub(self) -> None:
        """Wait until the gateway is connected to its hub."""
        wait_until(lambda: bool(self.state()["upstream"]["connected"]), SECONDS)

    def look(self, *options: str | Path, trust: Path | None = None) -> Seen:
        """Connect with `openssl s_client`, trusting the root."""
        return look(self.port, "-CAfile", trust or self.trust, *options)

    def refusals(self, identity: str) -> list[str]:
        """The reasons for which somebody was refused so far."""
        return [entry["reason"] for entry in self.logged("connection.refused") if entry.get("identity") == identity]

    def edit(self, old: str, new: str) -> None:
        """Change its config.toml."""
        text = self.config.read_text()
        assert old in text, text
        self.config.write_text(text.replace(old, new))


# The world ----------------------------------------------------------------------------------------------------------


class Story:
    """A hub, a gateway and a sensor that trust each other, and whatever else a test needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC).replace(microsecond=0)
        self._numbers = itertools.count()
        self._services: list[Service] = []
        self._make_hub_pki()
        self._make_private_pki()
        self.proxy = Proxy({})

    # Certificates ---------------------------------------------------------------------------------------------------

    def _make_hub_pki(self) -> None:
        self.hub_root = root("Contoso Global Root", now=self.now)
        self.hub_ca = self.hub_root.authority("Contoso TLS CA 1", path_length=0, now=self.now)
        self.hub_holder = self.hub_server("*.azure-devices.net")
        self.hub_certificate, self.hub_key = write_holder(self.folder, "hub", self.hub_holder)
        self.os_store = self.folder / "os-store.pem"
        self.os_store.write_text(pem(self.hub_root))

    def hub_server(self, *names: str, issuer: Holder | None = None, **fields: Any) -> Holder:
        """A server certificate as the hub has it; RSA, which the article's literal encryption needs."""
        usage = ("digital_signature", "key_encipherment")
        wanted: dict[str, Any] = {"eku": (SERVER,), "hosts": names, "usage": usage, "key_kind": "rsa-2048"}
        return (issuer or self.hub_ca).issue(names[0], **{"now": self.now, **wanted, **fields})

    def _make_private_pki(self) -> None:
        self.root = root(ROOT_CA, now=self.now)
        self.intermediate = self.root.authority(INTERMEDIATE_CA, path_length=1, now=self.now)
        self.edge_ca = self.intermediate.authority(EDGE_CA, path_length=0, now=self.now)
        self.trust = self.folder / "my_private_root_CA.pem"
        self.trust.write_text(pem(self.root))

    def device_holder(self, name: str, *, label: str = "", seconds: float | None = None, **fields: Any) -> Holder:
        """A device certificate below the intermediate; another label means another key. `seconds` it is valid yet."""
        if seconds is not None:
            fields["end"] = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds) - self.now
        issuer = fields.pop("issuer", self.intermediate)
        made: Holder = issuer.issue(name, key_label=f"{name} {label}", **{"now": self.now, **fields})
        return made

    def files(self, holder: Holder, *, whole: bool = False) -> tuple[Path, Path]:
        """Certificate and key of a holder, as files of their own."""
        return write_holder(self.folder, f"files-{next(self._numbers)}", holder, root=whole)

    # Start and end --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the hub, register EdgeGateway and TempSensor, start the gateway."""
        self.proxy.__enter__()
        self._start_hub()
        self.sensor = self.device_holder("TempSensor")
        self.sensor_second = self.device_holder("TempSensor", label="secondary", end=timedelta(days=60))
        self.gateway = self.site("EdgeGateway")
        self.register("TempSensor", self.sensor, self.sensor_second, parent="EdgeGateway")
        self.gateway.start()
        self.gateway.wait_for_hub()

    def _start_hub(self) -> None:
        config = self.folder / "hub.toml"
        config.write_text(
            f"""
[hub]
name = "{HUB}"
data = "hub"

[listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0

[tls]
certificate = "{self.hub_certificate}"
key = "{self.hub_key}"
trust_bundle = "{self.os_store}"
"""
        )
        self.hub = self.service("hub", "serve", "-c", str(config), "--json")
        self.hub.start()
        self.mqtt_port, self.https_port = (int(self.hub.ready["hub"][name]) for name in ("mqtt_port", "https_port"))
        said = dict(part.split("=", 1) for part in self.hub.ready["service_connection_string"].split(";"))
        self._policy = said["SharedAccessKeyName"], said["SharedAccessKey"]
        for name in (HUB, HUB_AS_TYPED):
            self.proxy.routes[name, self.mqtt_port] = self.mqtt_port

    def end(self) -> None:
        for service in reversed(self._services):
            service.stop()
        self.proxy.__exit__(None, None, None)

    def service(self, *arguments: str, log: str = "", **environment: str) -> Service:
        """A process of ours, stopped at the end if nobody did before."""
        made = Service(list(arguments), self.folder / f"{log or arguments[0]}-{next(self._numbers)}.log", environment)
        self._services.append(made)
        return made

    # The hub's registry, by curl ------------------------------------------------------------------------------------

    def curl(self, path: str, *options: str | Path, env: Mapping[str, str] | None = None, ca: bool = True) -> Done:
        """curl to the hub under its name; standard output is the body, then the status on a line of its own."""
        trust: tuple[str | Path, ...] = ("--cacert", self.os_store) if ca else ()
        return tool(
            *("curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *trust),
            *("--connect-to", f"{HUB}:443:127.0.0.1:{self.https_port}", *options, f"https://{HUB}{path}"),
            env=env,
        )

    def rest(self, method: str, path: str, body: object = None, *, if_match: str = "") -> tuple[int, Any]:
        """One request of the service side: status and JSON."""
        options = ["--request", method, "--header", f"Authorization: {self._service_token()}"]
        if body is not None:
            options += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        if if_match:
            options += ["--header", f'If-Match: "{if_match}"']
        done = self.curl(f"{path}{'&' if '?' in path else '?'}api-version={API}", *options)
        assert done.code == 0, done.err
        content, _, status = done.out.rpartition("\n")
        return int(status), json.loads(content) if content.strip() else None

    def _service_token(self) -> str:
        policy, secret = self._policy
        return f"{token(HUB, secret)}&skn={policy}"

    def get(self, path: str) -> Any:
        status, body = self.rest("GET", path)
        assert status == 200, body
        return body

    def register(
        self,
        device: str,
        *holders: Holder,
        kind: str = "selfSigned",
        parent: str | None = None,
        edge: bool = False,
        algorithm: str = "sha256",
    ) -> dict[str, Any]:
        """Create or replace a device: by thumbprints, with generated keys (`sas`), or by `certificateAuthority`."""
        status, made = self.put(device, authentication(kind, *holders, algorithm=algorithm), parent=parent, edge=edge)
        assert status == 200, made
        return dict(made)

    def put(
        self, device: str, said: dict[str, Any], *, parent: str | None = None, edge: bool = False, etag: str = ""
    ) -> tuple[int, Any]:
        """PUT a device: status and answer."""
        body: dict[str, Any] = {"deviceId": device, "status": "enabled", "authentication": said}
        body["capabilities"] = {"iotEdge": edge}
        if parent is not None:
            scope = self.get(f"/devices/{parent}")["deviceScope"]
            body |= {"parentScopes": [scope]} if edge else {"parentScopes": [scope], "deviceScope": scope}
        return self.rest("PUT", f"/devices/{device}", body, if_match=etag)

    def change(self, device: str, **fields: Any) -> dict[str, Any]:
        """Change fields of a registered device."""
        body = {**self.get(f"/devices/{device}"), **fields}
        status, made = self.rest("PUT", f"/devices/{device}", body, if_match=body["etag"])
        assert status == 200, made
        return dict(made)

    def trust_ca(self, name: str, holder: Holder) -> None:
        """Upload a CA to the hub and prove possession of its key, with openssl."""
        encoded = base64.b64encode(pem(holder).encode()).decode()
        status, entry = self.rest("PUT", f"/certificates/{name}", {"properties": {"certificate": encoded}})
        assert status in (200, 201), entry
        path = f"/certificates/{name}"
        status, entry = self.rest("POST", f"{path}/generateVerificationCode", if_match=entry["etag"])
        assert status == 200, entry
        ca, ca_key = self.files(holder, whole=True)
        proof, request = (self.folder / f"proof-{name}.{suffix}" for suffix in ("pem", "csr"))
        code = entry["properties"]["verificationCode"]
        made = tool(
            *("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={code}", "-out", request),
            *("-keyout", self.folder / f"proof-{name}.key"),
        )
        assert made.code == 0, made.err
        signed = tool(
            *("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-days", "1", "-out", proof)
        )
        assert signed.code == 0, signed.err
        body = {"certificate": base64.b64encode(proof.read_bytes()).decode()}
        status, entry = self.rest("POST", f"{path}/verify", body, if_match=entry["etag"])
        assert (status, entry["properties"]["isVerified"]) == (200, True), entry

    def messages(self, device: str) -> list[str]:
        """The bodies of a device's messages at the hub, in order."""
        events = self.get(f"/edgetrust/events?after=0&limit=1000&device={quote(device)}")["events"]
        return [event["bodyText"] for event in events]

    def refusals(self, identity: str) -> list[dict[str, Any]]:
        """What the hub recorded when it refused somebody, the last first."""
        return [one for one in self.get("/edgetrust/refusals?limit=50")["refusals"] if one["identity"] == identity]

    def wait_for_refusal(self, identity: str) -> dict[str, Any]:
        wait_until(lambda: bool(self.refusals(identity)), SECONDS)
        return self.refusals(identity)[0]

    # Devices --------------------------------------------------------------------------------------------------------

    def status_for(self, device: str, holder: Holder) -> int:
        """How the hub answers a device that asks about itself over HTTPS with its certificate: by curl."""
        certificate, its_key = self.files(holder)
        path = f"/devices/{device}/modules?api-version={API}"
        done = self.curl(path, "--cert", certificate, "--key", its_key)
        assert done.code == 0, done.err
        return int(done.out.rpartition("\n")[2])

    def publish(
        self,
        device: str,
        holder: Holder | None = None,
        *,
        at: Site | None = None,
        name: str | None = None,
        trust: Path | None = None,
        message: str = "21",
        password: str = "",
        hub: str = HUB,
    ) -> Done:
        """mosquitto_pub as a device, straight to the hub or (`at`) through a gateway, dialling `name`."""
        return tool(
            *self.mosquitto("mosquitto_pub", device, holder, at=at, name=name, trust=trust, password=password, hub=hub),
            *("-t", f"devices/{device}/messages/events/", "-m", message),
        )

    def subscribe(self, device: str, holder: Holder, at: Site) -> Background:
        """mosquitto_sub as a device that stays connected through a gateway."""
        name, *arguments = self.mosquitto("mosquitto_sub", device, holder, at=at)
        topic = ["-t", f"devices/{device}/messages/devicebound/#"]
        log = self.folder / f"mosquitto_sub-{next(self._numbers)}.log"
        return Background("stdbuf", ["-oL", program(str(name)), *arguments, *topic], log)

    def mosquitto(
        self,
        client: str,
        device: str,
        holder: Holder | None = None,
        *,
        at: Site | None = None,
        name: str | None = None,
        trust: Path | None = None,
        password: str = "",
        hub: str = HUB,
    ) -> list[str | Path]:
        """The command line of one of mosquitto's clients, without the topic."""
        port, ca, host = (self.mqtt_port, self.os_store, hub) if at is None else (at.port, at.trust, at.hostname)
        host = name or host
        self.proxy.routes[host, port] = port
        shown: list[str | Path] = []
        if holder is not None:
            certificate, its_key = self.files(holder)
            shown = ["--cert", certificate, "--key", its_key]
        secret = ["-P", password] if password else []
        return [
            *(client, "-d", "-V", "mqttv311", "-q", "1", "-h", host, "-p", str(port)),
            *("--proxy", f"socks5h://127.0.0.1:{self.proxy.port}", "--cafile", trust or ca),
            *("-i", device, "-u", f"{hub}/{device}/?api-version={API}", *shown, *secret),
        ]

    def send(
        self,
        device: str,
        holder: Holder,
        *,
        at: Site | None = None,
        name: str | None = None,
        port: int | None = None,
        trust: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """`edgetrust device send`, straight to the hub or through a gateway; without `trust` by the OS store."""
        certificate, its_key = self.files(holder)
        where = ["--hub", f"{name or HUB}:{port or self.mqtt_port}"]
        if at is not None:
            where = ["--hub", HUB, "--gateway", f"{name or at.hostname}:{port or at.port}"]
        trusted: list[str | Path] = ["--trust", trust] if trust is not None else []
        return edgetrust(
            *("device", "send", device, *where, "--address", "127.0.0.1", "--message", "22", "--give-up", "0"),
            *("--cert", certificate, "--cert-key", its_key, *trusted),
            env=env,
        )

    # Gateways -------------------------------------------------------------------------------------------------------

    def site(
        self,
        device: str,
        *,
        hostname: str = GATEWAY,
        edge_ca: Holder | None = None,
        whole: bool = True,
        quickstart: bool = False,
        identity: Holder | None = None,
        ports: tuple[int, int] | None = None,
        store: Path | None = None,
        extra: str = "",
    ) -> Site:
        """Register an edge device by thumbprint and write its config.toml; start it with `.start()`.

        `whole`: the Edge CA file holds the root too. `ports`: MQTT and HTTPS of the hub, if not its own. `store`: what
        the operating system trusts.
        """
        folder = self.folder / f"{device}-{next(self._numbers)}"
        folder.mkdir()
        holder = identity or self.device_holder(device)
        if self.rest("GET", f"/devices/{device}")[0] != 200:
            self.register(device, holder, holder, edge=True)
        issuer = edge_ca or self.edge_ca
        trust = folder / "root.pem"
        trust.write_text(pem(topmost(issuer)))
        identity_files = write_holder(folder, "identity", holder)
        table = ""
        if not quickstart:
            ca_files = write_holder(folder, "edge-ca", issuer, root=whole)
            table = f'[edge_ca]\ncert = "file://{ca_files[0]}"\npk = "file://{ca_files[1]}"\n'
        mqtt, https = ports or (self.mqtt_port, self.https_port)
        config = folder / "config.toml"
        config.write_text(
            f"""
hostname = "{hostname}"
trust_bundle_cert = "file://{trust}"

[provisioning]
source = "manual"
iothub_hostname = "{HUB_AS_TYPED}"
device_id = "{device}"

[provisioning.authentication]
method = "x509"
identity_cert = "file://{identity_files[0]}"
identity_pk = "file://{identity_files[1]}"

{table}
[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0

[edgetrust.metrics]
enabled = false

[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {mqtt}
https_port = {https}
{extra}
"""
        )
        made = Site(
            ["edge", "serve", "-c", str(config), "--root", str(folder / "root"), "--json"],
            folder / "gateway.log",
            {"SSL_CERT_FILE": str(store or self.os_store), "SSL_CERT_DIR": str(folder)},
            folder=folder,
            device=device,
            hostname=hostname,
            trust=trust,
            config=config,
            identity=holder,
        )
        self._services.append(made)
        return made


def authentication(kind: str, *holders: Holder, algorithm: str = "sha256") -> dict[str, Any]:
    """The `authentication` of a registration; the second holder gives the secondary thumbprint."""
    if kind != "selfSigned":
        return {"type": kind}
    prints = [holder.chain.thumbprint("sha1" if algorithm == "sha1" else "sha256").hex() for holder in holders]
    slots = {"primaryThumbprint": prints[0], "secondaryThumbprint": (*prints, None)[1]}
    return {"type": kind, "x509Thumbprint": slots}


def token(resource: str, secret: str, seconds: float = 3600) -> str:
    """A SAS token, made with the standard library only. `resource` is not encoded yet, `secret` is base64."""
    encoded, expires_at = quote(resource, safe=""), int(time.time() + seconds)
    digest = hmac.digest(base64.b64decode(secret), f"{encoded}\n{expires_at}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(digest).decode(), safe="")
    return f"SharedAccessSignature sr={encoded}&sig={signature}&se={expires_at}"


def pem(holder: Holder) -> str:
    return holder.certificate.public_bytes(Encoding.PEM).decode()


def topmost(holder: Holder) -> Holder:
    while holder.issuer is not None:
        holder = holder.issuer
    return holder


def forged_key(holder: Holder, file: Path) -> Path:
    """A key file whose public half is the certificate's and whose private half is not: all that a thief can make.

    TLS libraries load it, since they compare public halves; only the peer's check of the signature finds it out.
    """
    own = key(f"thief of {holder.certificate.serial_number}")
    der = own.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    mine, stolen = (_point(one) for one in (own, holder.private_key))
    assert der.count(mine) == 1
    body = base64.encodebytes(der.replace(mine, stolen)).decode()
    file.write_text(f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n")
    return file


def _point(one: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    point: bytes = one.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point


def contents(folder: Path) -> list[bytes]:
    """What the files of a folder hold that somebody writes to: what is replaced meanwhile has gone."""
    found: list[bytes] = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError, IsADirectoryError):
            found.append(file.read_bytes())
    return found


def eventually(true: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for something that happens by itself."""
    wait_until(true, seconds)
